#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/dtype.h"

namespace tessera {

struct DecoderShape {
  int num_layers = 1;
  int hidden_dim = 0;
  int num_heads = 0;
  KvSpec kv;
  int ffn_dim = 0;
  int vocab_size = 0;
  DType type = DType::kBf16;  // of every matrix
  // What it must have room for.
  int max_rows = 0;  // of a step
  int max_selected = 0;
  int max_context = 0;
  int num_pages = 0;
};

// A Llama decoder of random weights that makes a step's calls in the order of model/llama.cc, for
// programs that have kernels and nothing else. Dies before the backend.
class RandomDecoder {
 public:
  RandomDecoder(Backend* backend, const DecoderShape& shape, uint32_t seed);

  // Runs the step and multiplies the selected rows with the head. Its logits are at logits() once
  // the backend is synchronised.
  void Run(const StepRows& step);

  const DecoderShape& shape() const { return shape_; }
  float* logits() const { return logits_.As<float>(); }  // device memory, [selected, vocab_size]
  // Of what a step of decode rows reads besides keys and values.
  size_t weight_bytes() const;

 private:
  struct Layer {
    std::unique_ptr<PackedWeight> q, k, v, o, gate, up, down;
    DeviceBuffer attention_norm, ffn_norm;
    DeviceBuffer pages;
  };

  std::unique_ptr<PackedWeight> NewWeight(int64_t rows, int64_t cols, int64_t max_distinct);
  DeviceBuffer NewNorm();
  Layer NewLayer();
  void BuildRope();
  void RunLayers(const StepRows& step);
  void StoreAndAttend(const StepRows& step, const Layer& layer);
  void FinishLayer(const Layer& layer, int64_t num_rows, const DeviceBuffer& attended,
                   const DeviceBuffer& residual, const DeviceBuffer& next_norm);

  Backend& backend_;
  const DecoderShape shape_;
  const int qkv_dim_;
  const int attention_dim_;
  uint32_t next_seed_;
  std::unique_ptr<PackedWeight> embedding_;  // also the head
  DeviceBuffer output_norm_;
  std::vector<Layer> layers_;
  DeviceBuffer rope_cos_, rope_sin_;
  DeviceBuffer residual_, normed_, qkv_, attended_, projected_, gate_up_, activated_;
  DeviceBuffer selected_attended_, selected_residual_, logits_, row_faults_;
};

}  // namespace tessera
