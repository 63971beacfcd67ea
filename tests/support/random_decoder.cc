#include "tests/support/random_decoder.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "kernels/rope_tables.h"
#include "tests/kernels/op_runner.h"

namespace tessera {
namespace {

constexpr float kEpsilon = 1e-5f;
// A layer's large matrices repeat their first rows, since generating billions of numbers would take
// minutes. The head's may not: equal rows are ties.
constexpr int64_t kDistinctElements = 1 << 20;
constexpr int64_t kDistinctHeadElements = 1 << 25;

}  // namespace

RandomDecoder::RandomDecoder(Backend* backend, const DecoderShape& shape, uint32_t seed)
    : backend_(*backend),
      shape_(shape),
      qkv_dim_((shape.num_heads + 2 * shape.kv.num_kv_heads) * shape.kv.head_dim),
      attention_dim_(shape.num_heads * shape.kv.head_dim),
      next_seed_(seed) {
  embedding_ = NewWeight(shape.vocab_size, shape.hidden_dim, kDistinctHeadElements);
  output_norm_ = NewNorm();
  for (int i = 0; i < shape.num_layers; ++i) layers_.push_back(NewLayer());
  BuildRope();
  const auto floats = [&](int64_t rows, int64_t cols) {
    return backend->Allocate(static_cast<size_t>(rows * cols) * sizeof(float));
  };
  const auto activations = [&](int64_t rows, int64_t cols) {
    return backend->Allocate(static_cast<size_t>(rows * cols) * backend->activation_bytes());
  };
  const int64_t rows = RowsWithPadding(std::max(shape.max_rows, shape.max_selected));
  const int64_t selected = RowsWithPadding(shape.max_selected);
  residual_ = floats(rows, shape.hidden_dim);
  normed_ = activations(rows, shape.hidden_dim);
  qkv_ = activations(rows, qkv_dim_);
  attended_ = activations(rows, attention_dim_);
  projected_ = activations(rows, shape.hidden_dim);
  gate_up_ = activations(rows, int64_t{2} * shape.ffn_dim);
  activated_ = activations(rows, shape.ffn_dim);
  selected_attended_ = activations(selected, attention_dim_);
  selected_residual_ = floats(selected, shape.hidden_dim);
  logits_ = floats(shape.max_selected, shape.vocab_size);
  row_faults_ = backend->Allocate(static_cast<size_t>(rows));
}

// Values around 1 / sqrt(cols), so that a layer's outputs are about as large as its inputs; the
// embedding's, which are the head's too, give logits around 1.
std::unique_ptr<PackedWeight> RandomDecoder::NewWeight(int64_t rows, int64_t cols,
                                                       int64_t max_distinct) {
  const int64_t distinct_rows = std::min(rows, std::max<int64_t>(1, max_distinct / cols));
  const std::vector<std::byte> data =
      RandomWeightRows(shape_.type, distinct_rows, cols, next_seed_++);
  auto weight = backend_.NewWeight(shape_.type, rows, cols);
  for (int64_t first = 0; first < rows; first += distinct_rows) {
    backend_.PackRows(weight.get(), first, std::min(distinct_rows, rows - first), data.data());
  }
  return weight;
}

DeviceBuffer RandomDecoder::NewNorm() {
  Floats values = NormalFloats(shape_.hidden_dim, next_seed_++);
  for (float& value : values) value = 1.0f + 0.1f * value;
  return UploadFloats(&backend_, values);
}

RandomDecoder::Layer RandomDecoder::NewLayer() {
  const int64_t kv_dim = int64_t{shape_.kv.num_kv_heads} * shape_.kv.head_dim;
  Layer layer;
  layer.q = NewWeight(attention_dim_, shape_.hidden_dim, kDistinctElements);
  layer.k = NewWeight(kv_dim, shape_.hidden_dim, kDistinctElements);
  layer.v = NewWeight(kv_dim, shape_.hidden_dim, kDistinctElements);
  layer.o = NewWeight(shape_.hidden_dim, attention_dim_, kDistinctElements);
  layer.gate = NewWeight(shape_.ffn_dim, shape_.hidden_dim, kDistinctElements);
  layer.up = NewWeight(shape_.ffn_dim, shape_.hidden_dim, kDistinctElements);
  layer.down = NewWeight(shape_.hidden_dim, shape_.ffn_dim, kDistinctElements);
  layer.attention_norm = NewNorm();
  layer.ffn_norm = NewNorm();
  layer.pages =
      backend_.Allocate(static_cast<size_t>(shape_.num_pages) * backend_.KvPageBytes(shape_.kv));
  return layer;
}

void RandomDecoder::BuildRope() {
  Floats cosines(static_cast<size_t>(shape_.max_context) * shape_.kv.head_dim / 2);
  Floats sines(cosines.size());
  const RopeSpec spec = {.rope_dim = shape_.kv.head_dim, .theta = 5e5, .divisors = {}};
  BuildRopeTables(spec, shape_.max_context, cosines.data(), sines.data());
  rope_cos_ = UploadFloats(&backend_, cosines);
  rope_sin_ = UploadFloats(&backend_, sines);
}

size_t RandomDecoder::weight_bytes() const {
  size_t sum = embedding_->size_bytes();  // the head; a step embeds few rows
  for (const Layer& layer : layers_) {
    for (const auto* weight :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      sum += (*weight)->size_bytes();
    }
  }
  return sum;
}

void RandomDecoder::Run(const StepRows& step) {
  const auto num_selected = static_cast<int64_t>(step.selected.size());
  const auto calls = [&] { RunLayers(step); };
  backend_.Zero(row_faults_.As<void>(), static_cast<size_t>(step.batch->num_rows()));
  backend_.RunStep(step, this, std::ref(calls));
  if (num_selected == 0) return;
  backend_.Logits(normed_.As<void>(), num_selected, *embedding_, logits_.As<float>());
}

void RandomDecoder::RunLayers(const StepRows& step) {
  const int64_t num_rows = step.batch->num_rows();
  const auto num_selected = static_cast<int64_t>(step.selected.size());
  backend_.Embed(*embedding_, step.tokens, residual_.As<float>());
  backend_.RmsNorm(residual_.As<float>(), layers_[0].attention_norm.As<float>(), kEpsilon, num_rows,
                   shape_.hidden_dim, normed_.As<void>());
  for (size_t i = 0; i + 1 < layers_.size(); ++i) {
    StoreAndAttend(step, layers_[i]);
    FinishLayer(layers_[i], num_rows, attended_, residual_, layers_[i + 1].attention_norm);
  }
  StoreAndAttend(step, layers_.back());
  if (num_selected == 0) return;
  backend_.GatherRows(attended_.As<void>(), step.selected,
                      static_cast<size_t>(attention_dim_) * backend_.activation_bytes(),
                      selected_attended_.As<void>());
  backend_.GatherRows(residual_.As<void>(), step.selected,
                      static_cast<size_t>(shape_.hidden_dim) * sizeof(float),
                      selected_residual_.As<void>());
  FinishLayer(layers_.back(), num_selected, selected_attended_, selected_residual_, output_norm_);
}

void RandomDecoder::StoreAndAttend(const StepRows& step, const Layer& layer) {
  const PackedWeight* const qkv[] = {layer.q.get(), layer.k.get(), layer.v.get()};
  backend_.Linear(normed_.As<void>(), step.batch->num_rows(), qkv, qkv_.As<void>());
  backend_.RopeStoreKv({.qkv = qkv_.As<void>(),
                        .num_heads = shape_.num_heads,
                        .spec = shape_.kv,
                        .pages = layer.pages.As<std::byte>(),
                        .batch = step.batch,
                        .rope_cos = rope_cos_.As<float>(),
                        .rope_sin = rope_sin_.As<float>(),
                        .rope_dim = shape_.kv.head_dim,
                        .row_faults = row_faults_.As<uint8_t>()});
  backend_.Attention({.q = qkv_.As<void>(),
                      .q_stride = qkv_dim_,
                      .out = attended_.As<void>(),
                      .num_heads = shape_.num_heads,
                      .spec = shape_.kv,
                      .pages = layer.pages.As<std::byte>(),
                      .batch = step.batch,
                      .scale = 1.0f / std::sqrt(static_cast<float>(shape_.kv.head_dim))});
}

void RandomDecoder::FinishLayer(const Layer& layer, int64_t num_rows, const DeviceBuffer& attended,
                                const DeviceBuffer& residual, const DeviceBuffer& next_norm) {
  const PackedWeight* const o[] = {layer.o.get()};
  const PackedWeight* const gate_up[] = {layer.gate.get(), layer.up.get()};
  const PackedWeight* const down[] = {layer.down.get()};
  const auto add_norm = [&](const DeviceBuffer& norm) {
    backend_.AddRmsNorm(projected_.As<void>(), norm.As<float>(), kEpsilon, num_rows,
                        shape_.hidden_dim, residual.As<float>(), normed_.As<void>());
  };
  backend_.Linear(attended.As<void>(), num_rows, o, projected_.As<void>());
  add_norm(layer.ffn_norm);
  backend_.Linear(normed_.As<void>(), num_rows, gate_up, gate_up_.As<void>());
  backend_.SwiGlu(gate_up_.As<void>(), num_rows, shape_.ffn_dim, activated_.As<void>());
  backend_.Linear(activated_.As<void>(), num_rows, down, projected_.As<void>());
  add_norm(next_norm);
}

}  // namespace tessera
