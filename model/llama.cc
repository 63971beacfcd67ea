#include "model/llama.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/rope_tables.h"

namespace tessera {
namespace {

DeviceBuffer AllocateFloats(Backend* backend, int64_t rows, int64_t cols) {
  return backend->Allocate(static_cast<size_t>(rows * cols) * sizeof(float));
}

DeviceBuffer AllocateActivations(Backend* backend, int64_t rows, int64_t cols) {
  return backend->Allocate(static_cast<size_t>(rows * cols) * backend->activation_bytes());
}

DeviceBuffer UploadFloats(Backend* backend, const std::vector<float>& values) {
  const size_t size_bytes = values.size() * sizeof(float);
  DeviceBuffer buffer = backend->Allocate(size_bytes);
  backend->Upload(values.data(), size_bytes, buffer.As<void>());
  return buffer;
}

// Linear scaling divides every pair's frequency; Llama 3's comes with the weights.
std::vector<float> RopeDivisors(const ModelConfig& config, const ModelWeights& weights) {
  std::vector<float> divisors = weights.rope_divisors;
  if (divisors.empty()) divisors.assign(static_cast<size_t>(config.rope_dim) / 2, 1.0f);
  for (float& divisor : divisors) divisor *= config.rope_factor;
  return divisors;
}

}  // namespace

Llama::Llama(Backend* backend, const ModelConfig& config, ModelWeights weights,
             const Limits& limits)
    : backend_(*backend),
      config_(config),
      weights_(std::move(weights)),
      attention_dim_(config.num_heads * config.head_dim),
      qkv_dim_((config.num_heads + 2 * config.num_kv_heads) * config.head_dim) {
  const int64_t rows = RowsWithPadding(limits.max_rows);
  const int64_t selected = RowsWithPadding(limits.max_selected);
  const int64_t rows_or_selected = std::max(rows, selected);
  BuildRope(limits.max_context);
  residual_ = AllocateFloats(backend, rows, config.hidden_dim);
  normed_ = AllocateActivations(backend, rows_or_selected, config.hidden_dim);
  qkv_ = AllocateActivations(backend, rows, qkv_dim_);
  attended_ = AllocateActivations(backend, rows, attention_dim_);
  projected_ = AllocateActivations(backend, rows_or_selected, config.hidden_dim);
  gate_up_ = AllocateActivations(backend, rows_or_selected, int64_t{2} * config.ffn_dim);
  activated_ = AllocateActivations(backend, rows_or_selected, config.ffn_dim);
  selected_attended_ = AllocateActivations(backend, selected, attention_dim_);
  selected_residual_ = AllocateFloats(backend, selected, config.hidden_dim);
  logits_ = AllocateFloats(backend, kLogitsRows, config.vocab_size);
  row_faults_ = backend->Allocate(static_cast<size_t>(rows));
}

void Llama::BuildRope(int max_context) {
  const std::vector<float> divisors = RopeDivisors(config_, weights_);
  std::vector<float> cosines(static_cast<size_t>(max_context) * config_.rope_dim / 2);
  std::vector<float> sines(cosines.size());
  BuildRopeTables({.rope_dim = config_.rope_dim, .theta = config_.rope_base, .divisors = divisors},
                  max_context, cosines.data(), sines.data());
  rope_cos_ = UploadFloats(&backend_, cosines);
  rope_sin_ = UploadFloats(&backend_, sines);
}

void Llama::Forward(std::span<const TokenId> tokens, const SequenceBatch& batch,
                    std::span<const int32_t> selected_rows, KvCache* cache, uint8_t* row_faults) {
  num_rows_ = batch.num_rows();
  const StepRows step = {.tokens = tokens, .batch = &batch, .selected = selected_rows};
  const auto calls = [&] { RunLayers(step, cache); };
  backend_.Zero(row_faults_.As<void>(), static_cast<size_t>(num_rows_));
  // By reference, since a copy would be allocated.
  backend_.RunStep(step, cache->layer(0), std::ref(calls));
  backend_.Download(row_faults_.As<void>(), static_cast<size_t>(num_rows_), row_faults);
}

void Llama::RunLayers(const StepRows& step, KvCache* cache) {
  const auto& layers = weights_.layers;
  const int last = config_.num_layers - 1;
  backend_.Embed(*weights_.token_embedding, step.tokens, residual_.As<float>());
  backend_.RmsNorm(residual_.As<float>(), layers[0].attention_norm.As<float>(),
                   config_.norm_epsilon, num_rows_, config_.hidden_dim, normed_.As<void>());
  for (int i = 0; i < last; ++i) {
    StoreKeysAndValues(i, *step.batch, cache);
    Attend(i, *step.batch, *cache);
    FinishLayer(layers[i], num_rows_, attended_, residual_, layers[i + 1].attention_norm);
  }

  StoreKeysAndValues(last, *step.batch, cache);
  if (step.selected.empty()) return;
  Attend(last, *step.batch, *cache);
  backend_.GatherRows(attended_.As<void>(), step.selected,
                      static_cast<size_t>(attention_dim_) * backend_.activation_bytes(),
                      selected_attended_.As<void>());
  backend_.GatherRows(residual_.As<void>(), step.selected,
                      static_cast<size_t>(config_.hidden_dim) * sizeof(float),
                      selected_residual_.As<void>());
  FinishLayer(layers[last], static_cast<int64_t>(step.selected.size()), selected_attended_,
              selected_residual_, weights_.output_norm);
}

void Llama::StoreKeysAndValues(int layer_index, const SequenceBatch& batch, KvCache* cache) {
  const LayerWeights& layer = weights_.layers[layer_index];
  const PackedWeight* const qkv[] = {layer.q.get(), layer.k.get(), layer.v.get()};
  backend_.Linear(normed_.As<void>(), num_rows_, qkv, qkv_.As<void>());
  backend_.RopeStoreKv({.qkv = qkv_.As<void>(),
                        .num_heads = config_.num_heads,
                        .spec = cache->spec(),
                        .pages = cache->layer(layer_index),
                        .batch = &batch,
                        .rope_cos = rope_cos_.As<float>(),
                        .rope_sin = rope_sin_.As<float>(),
                        .rope_dim = config_.rope_dim,
                        .row_faults = row_faults_.As<uint8_t>()});
}

void Llama::Attend(int layer_index, const SequenceBatch& batch, const KvCache& cache) {
  backend_.Attention({.q = qkv_.As<void>(),
                      .q_stride = qkv_dim_,
                      .out = attended_.As<void>(),
                      .num_heads = config_.num_heads,
                      .spec = cache.spec(),
                      .pages = cache.layer(layer_index),
                      .batch = &batch,
                      .scale = config_.attention_scale,
                      .window = config_.attention_window});
}

void Llama::FinishLayer(const LayerWeights& layer, int64_t num_rows, const DeviceBuffer& attended,
                        const DeviceBuffer& residual, const DeviceBuffer& next_norm) {
  const PackedWeight* const o[] = {layer.o.get()};
  const PackedWeight* const gate_up[] = {layer.gate.get(), layer.up.get()};
  const PackedWeight* const down[] = {layer.down.get()};
  const auto add_norm = [&](const DeviceBuffer& norm) {
    backend_.AddRmsNorm(projected_.As<void>(), norm.As<float>(), config_.norm_epsilon, num_rows,
                        config_.hidden_dim, residual.As<float>(), normed_.As<void>());
  };
  backend_.Linear(attended.As<void>(), num_rows, o, projected_.As<void>());
  add_norm(layer.ffn_norm);
  backend_.Linear(normed_.As<void>(), num_rows, gate_up, gate_up_.As<void>());
  backend_.SwiGlu(gate_up_.As<void>(), num_rows, config_.ffn_dim, activated_.As<void>());
  backend_.Linear(activated_.As<void>(), num_rows, down, projected_.As<void>());
  add_norm(next_norm);
}

float* Llama::Logits(int first, int count) {
  CHECK_LE(count, kLogitsRows);
  const size_t first_byte =
      static_cast<size_t>(first) * config_.hidden_dim * backend_.activation_bytes();
  backend_.Logits(normed_.As<std::byte>() + first_byte, count, weights_.output(),
                  logits_.As<float>());
  return logits_.As<float>();
}

}  // namespace tessera
