#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/config.h"
#include "model/gguf.h"

namespace tessera {

struct LayerWeights {
  DeviceBuffer attention_norm;         // fp32 [hidden_dim]
  std::unique_ptr<PackedWeight> q;     // [num_heads * head_dim, hidden_dim]
  std::unique_ptr<PackedWeight> k;     // [num_kv_heads * head_dim, hidden_dim]
  std::unique_ptr<PackedWeight> v;     // same shape as k
  std::unique_ptr<PackedWeight> o;     // [hidden_dim, num_heads * head_dim]
  DeviceBuffer ffn_norm;               // fp32 [hidden_dim]
  std::unique_ptr<PackedWeight> gate;  // [ffn_dim, hidden_dim]
  std::unique_ptr<PackedWeight> up;    // same shape as gate
  std::unique_ptr<PackedWeight> down;  // [hidden_dim, ffn_dim]
};

// A Llama model's weights in a backend's layout. Q and K rows pair as (i, i + rope_dim / 2) for
// RoPE: the order of the GGUF file, which pairs (2 i, 2 i + 1), is undone at load. Dies before the
// backend it was loaded for.
struct ModelWeights {
  std::unique_ptr<PackedWeight> token_embedding;  // [vocab_size, hidden_dim]
  std::unique_ptr<PackedWeight> untied_output;    // same shape; null: tied to token_embedding
  DeviceBuffer output_norm;                       // fp32 [hidden_dim]
  std::vector<LayerWeights> layers;
  std::vector<float> rope_divisors;  // [rope_dim / 2], or empty
  std::string hash;                  // XXH3-128 of the whole file, 32 hex digits

  const PackedWeight& output() const {
    return untied_output != nullptr ? *untied_output : *token_embedding;
  }
};

// Reads the file once, front to back, in slices of about a megabyte that are hashed and packed, so
// that the memory needed is that of the packed weights. Every tensor of the file must be one that
// the architecture knows, in the shape that `config` says.
absl::StatusOr<ModelWeights> LoadWeights(const GgufFile& file, const ModelConfig& config,
                                         Backend* backend);

}  // namespace tessera
