#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/gguf.h"

namespace tessera {

// The shape of a Llama-architecture decoder. Every value is range-checked when it is read.
struct ModelConfig {
  std::string name;  // the file's own, may be empty
  int num_layers = 0;
  int hidden_dim = 0;
  int num_heads = 0;
  int num_kv_heads = 0;  // divides num_heads (GQA)
  int head_dim = 0;      // even
  int ffn_dim = 0;
  int vocab_size = 0;
  int max_context = 0;  // positions that the model was trained for
  int rope_dim = 0;     // even, <= head_dim; the rest of a head is not rotated
  double rope_base = 0;
  float rope_factor = 1;  // linear scaling: positions count 1 / rope_factor
  float norm_epsilon = 0;
  float attention_scale = 0;
  int attention_window = 0;  // 0: full attention

  KvSpec kv_spec() const { return {.num_kv_heads = num_kv_heads, .head_dim = head_dim}; }
};

// UNIMPLEMENTED for an architecture or a feature that we do not run, INVALID_ARGUMENT or NOT_FOUND
// for a value that is out of range or missing.
absl::StatusOr<ModelConfig> ReadModelConfig(const GgufFile& file);

}  // namespace tessera
