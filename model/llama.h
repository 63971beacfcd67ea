#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/weights.h"

namespace tessera {

// A Llama decoder on one backend: weights, RoPE tables and the activations of one step, sized once
// for the largest. Used by one thread. Dies before the backend.
class Llama {
 public:
  struct Limits {
    int max_rows = 0;      // rows of a step
    int max_selected = 0;  // rows of a step whose logits are wanted
    int max_context = 0;   // positions
  };

  Llama(Backend* backend, const ModelConfig& config, ModelWeights weights, const Limits& limits);

  // Runs one step's rows, storing their keys and values. Of the last layer only what the selected
  // rows need is computed; a row may be selected more than once.
  // The batch's page ids are KvCache::IndexInLayer's. tokens: [batch.num_rows()]. row_faults:
  // likewise, host memory, 1 where a key or value that was stored was not finite; there once the
  // backend was waited for.
  void Forward(std::span<const TokenId> tokens, const SequenceBatch& batch,
               std::span<const int32_t> selected_rows, KvCache* cache, uint8_t* row_faults);

  // Logits of the last Forward's selected rows [first, first + count), count <= kLogitsRows: the
  // whole step's would be a large matrix. [count, vocab_size], valid until the next call; may be
  // overwritten.
  static constexpr int kLogitsRows = 32;
  float* Logits(int first, int count);  // device memory

 private:
  void BuildRope(int max_context);
  void RunLayers(const StepRows& step, KvCache* cache);
  void StoreKeysAndValues(int layer_index, const SequenceBatch& batch, KvCache* cache);
  void Attend(int layer_index, const SequenceBatch& batch, const KvCache& cache);
  // Everything behind attention: output projection, feed-forward block, and the norm that follows,
  // of rows of `attended` and `residual`. Leaves the normed rows in normed_.
  void FinishLayer(const LayerWeights& layer, int64_t num_rows, const DeviceBuffer& attended,
                   const DeviceBuffer& residual, const DeviceBuffer& next_norm);

  Backend& backend_;
  const ModelConfig config_;
  const ModelWeights weights_;
  const int attention_dim_;
  const int qkv_dim_;  // q, k and v of a row side by side

  DeviceBuffer rope_cos_;   // [max_context, rope_dim / 2]
  DeviceBuffer rope_sin_;   // same shape
  DeviceBuffer residual_;   // [rows, hidden_dim]
  DeviceBuffer normed_;     // [rows, hidden_dim]; at the end the selected rows' hidden states
  DeviceBuffer qkv_;        // [rows, qkv_dim]
  DeviceBuffer attended_;   // [rows, attention_dim]
  DeviceBuffer projected_;  // [rows, hidden_dim]: what a block adds to the residual
  DeviceBuffer gate_up_;    // [rows, 2 * ffn_dim]
  DeviceBuffer activated_;  // [rows, ffn_dim]
  DeviceBuffer selected_attended_;  // [selected, attention_dim]
  DeviceBuffer selected_residual_;  // [selected, hidden_dim]
  DeviceBuffer logits_;             // [kLogitsRows, vocab_size]
  DeviceBuffer row_faults_;         // [rows]
  int num_rows_ = 0;
};

}  // namespace tessera
