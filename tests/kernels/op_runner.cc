#include "tests/kernels/op_runner.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "kernels/dequantize.h"
#include "kernels/rope_tables.h"

namespace tessera {
namespace {

// Where a block holds its fp16 factors; -1: none.
struct FactorOffsets {
  int scale, min;
};

FactorOffsets Factors(DType type) {
  switch (type) {
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ5_0:
      return {0, -1};
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ6_K:
      return {208, -1};
    default:
      return {-1, -1};
  }
}

// The largest magnitude of what a block multiplies its scale with.
float MaxQuant(DType type) {
  switch (type) {
    case DType::kQ8_0:
      return 128.0f;
    case DType::kQ4_0:
      return 8.0f;
    case DType::kQ4_1:
      return 15.0f;
    case DType::kQ5_0:
      return 16.0f;
    case DType::kQ5_1:
      return 31.0f;
    case DType::kQ4_K:
      return 15.0f * 63.0f;
    case DType::kQ5_K:
      return 31.0f * 63.0f;
    case DType::kQ6_K:
      return 32.0f * 127.0f;
    default:
      return 1.0f;
  }
}

void PutHalf(std::byte* where, float value) {
  const uint16_t half = FloatToHalfFinite(value);
  std::memcpy(where, &half, sizeof half);
}

void PutFloat(DType type, float value, std::byte* where) {
  if (type == DType::kF32) std::memcpy(where, &value, sizeof value);
  if (type == DType::kF16) PutHalf(where, value);
  if (type == DType::kBf16) {
    const auto bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    std::memcpy(where, &bits, sizeof bits);
  }
}

uint32_t Mix(uint32_t a, uint32_t b) { return (a * 0x9E3779B9u) ^ (b * 0x85EBCA6Bu + 0x1234567u); }

}  // namespace

Floats NormalFloats(int64_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Floats values(static_cast<size_t>(size));
  for (float& value : values) value = normal(random);
  return values;
}

Floats ActivationFloats(int64_t size, uint32_t seed) {
  Floats values = NormalFloats(size, seed);
  for (size_t i = seed % 100; i < values.size(); i += 100) values[i] *= 20.0f;
  return values;
}

std::vector<std::byte> RandomWeightRows(DType type, int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(cols)));
  std::vector<std::byte> data(static_cast<size_t>(rows) * RowBytes(type, cols));
  const auto block_bytes = static_cast<size_t>(BlockBytes(type));
  const FactorOffsets factors = Factors(type);
  for (size_t block = 0; block < data.size(); block += block_bytes) {
    if (!IsQuantized(type)) {
      PutFloat(type, normal(random), &data[block]);
      continue;
    }
    for (size_t i = 0; i < block_bytes; ++i) data[block + i] = static_cast<std::byte>(random());
    PutHalf(&data[block + static_cast<size_t>(factors.scale)], normal(random) / MaxQuant(type));
    if (factors.min >= 0) PutHalf(&data[block + static_cast<size_t>(factors.min)], normal(random));
  }
  return data;
}

std::unique_ptr<PackedWeight> MakeWeight(Backend* backend, DType type, int64_t rows, int64_t cols,
                                         uint32_t seed) {
  const std::vector<std::byte> data = RandomWeightRows(type, rows, cols, seed);
  std::unique_ptr<PackedWeight> weight = backend->NewWeight(type, rows, cols);
  // In two parts, the later rows first.
  const int64_t half = rows / 2;
  backend->PackRows(weight.get(), half, rows - half,
                    data.data() + static_cast<size_t>(half) * RowBytes(type, cols));
  if (half > 0) backend->PackRows(weight.get(), 0, half, data.data());
  return weight;
}

Floats DequantizedWeight(DType type, int64_t rows, int64_t cols, uint32_t seed) {
  const std::vector<std::byte> data = RandomWeightRows(type, rows, cols, seed);
  Floats values(static_cast<size_t>(rows * cols));
  for (int64_t row = 0; row < rows; ++row) {
    DequantizeRow(type, data.data() + static_cast<size_t>(row) * RowBytes(type, cols), cols,
                  &values[static_cast<size_t>(row * cols)]);
  }
  return values;
}

Floats RunRmsNorm(Backend* backend, const Floats& x, const Floats& weight, float epsilon) {
  const auto dim = static_cast<int64_t>(weight.size());
  const DeviceBuffer device_x = UploadFloats(backend, x);
  const DeviceBuffer device_weight = UploadFloats(backend, weight);
  const DeviceBuffer out = AllocateActivations(backend, x.size());
  backend->RmsNorm(device_x.As<float>(), device_weight.As<float>(), epsilon,
                   static_cast<int64_t>(x.size()) / dim, dim, out.As<void>());
  return DownloadActivations(backend, out);
}

Floats RunAddRmsNorm(Backend* backend, const Floats& x, const Floats& residual,
                     const Floats& weight, float epsilon) {
  const auto dim = static_cast<int64_t>(weight.size());
  const DeviceBuffer device_x = UploadActivations(backend, x);
  const DeviceBuffer sum = UploadFloats(backend, residual);
  const DeviceBuffer device_weight = UploadFloats(backend, weight);
  const DeviceBuffer out = AllocateActivations(backend, x.size());
  backend->AddRmsNorm(device_x.As<void>(), device_weight.As<float>(), epsilon,
                      static_cast<int64_t>(x.size()) / dim, dim, sum.As<float>(), out.As<void>());
  Floats result = DownloadFloats(backend, sum);
  const Floats normed = DownloadActivations(backend, out);
  result.insert(result.end(), normed.begin(), normed.end());
  return result;
}

Floats RunSwiGlu(Backend* backend, const Floats& gate_up, int64_t dim) {
  const size_t size = gate_up.size() / 2;
  const DeviceBuffer device_gate_up = UploadActivations(backend, gate_up);
  const DeviceBuffer out = AllocateActivations(backend, size);
  backend->SwiGlu(device_gate_up.As<void>(), static_cast<int64_t>(size) / dim, dim, out.As<void>());
  return DownloadActivations(backend, out);
}

Floats RunLinear(Backend* backend, const Floats& x,
                 const std::vector<const PackedWeight*>& weights) {
  const int64_t num_rows = static_cast<int64_t>(x.size()) / weights[0]->cols();
  int64_t num_outputs = 0;
  for (const PackedWeight* weight : weights) num_outputs += weight->rows();
  const DeviceBuffer device_x = UploadActivations(backend, x);
  const DeviceBuffer out =
      AllocateActivations(backend, static_cast<size_t>(num_rows * num_outputs));
  backend->Linear(device_x.As<void>(), num_rows, weights, out.As<void>());
  return DownloadActivations(backend, out);
}

Floats RunLogits(Backend* backend, const Floats& x, const PackedWeight& weight) {
  const int64_t num_rows = static_cast<int64_t>(x.size()) / weight.cols();
  const DeviceBuffer device_x = UploadActivations(backend, x);
  const DeviceBuffer out = AllocateFloats(backend, static_cast<size_t>(num_rows * weight.rows()));
  backend->Logits(device_x.As<void>(), num_rows, weight, out.As<float>());
  return DownloadFloats(backend, out);
}

namespace {

std::vector<int32_t> FirstPages(size_t num_tokens) {
  std::vector<int32_t> page_ids((num_tokens + kPageTokens - 1) / kPageTokens);
  std::iota(page_ids.begin(), page_ids.end(), 0);
  return page_ids;
}

}  // namespace

AnnouncedStep::AnnouncedStep(Backend* backend, std::vector<TokenId> tokens,
                             std::vector<int32_t> selected)
    : tokens_(std::move(tokens)),
      selected_(std::move(selected)),
      query_starts_{0, static_cast<int32_t>(tokens_.size())},
      kv_lengths_{static_cast<int32_t>(tokens_.size())},
      page_ids_(FirstPages(tokens_.size())),
      page_starts_{0, static_cast<int32_t>(page_ids_.size())},
      batch_{query_starts_, kv_lengths_, page_starts_, page_ids_} {
  backend->BeginStep({.tokens = tokens_, .batch = &batch_, .selected = selected_});
}

Floats RunEmbed(Backend* backend, const PackedWeight& table, const std::vector<TokenId>& tokens) {
  const AnnouncedStep step(backend, tokens, {});
  const DeviceBuffer out =
      AllocateFloats(backend, tokens.size() * static_cast<size_t>(table.cols()));
  backend->Embed(table, step.tokens(), out.As<float>());
  return DownloadFloats(backend, out);
}

Floats RunGatherRows(Backend* backend, const Floats& x, int64_t dim,
                     const std::vector<int32_t>& rows) {
  const std::vector<TokenId> tokens(x.size() / static_cast<size_t>(dim));
  const AnnouncedStep step(backend, tokens, rows);
  const DeviceBuffer device_x = UploadFloats(backend, x);
  const DeviceBuffer out = AllocateFloats(backend, rows.size() * static_cast<size_t>(dim));
  backend->GatherRows(device_x.As<void>(), step.selected(),
                      static_cast<size_t>(dim) * sizeof(float), out.As<void>());
  return DownloadFloats(backend, out);
}

AttentionRun::AttentionRun(Backend* backend, const AttentionShape& shape,
                           std::vector<uint32_t> sequence_seeds, int max_length)
    : backend_(backend),
      shape_(shape),
      outputs_(sequence_seeds.size()),
      queries_(sequence_seeds.size()) {
  const size_t pages_each = static_cast<size_t>((max_length + kPageTokens - 1) / kPageTokens);
  std::vector<int32_t> page_ids(pages_each * sequence_seeds.size());
  std::iota(page_ids.begin(), page_ids.end(), 0);
  std::shuffle(page_ids.begin(), page_ids.end(), std::mt19937(1));
  for (size_t i = 0; i < sequence_seeds.size(); ++i) {
    const auto first = page_ids.begin() + static_cast<int64_t>(i * pages_each);
    sequences_.push_back({sequence_seeds[i], 0, {first, first + static_cast<int64_t>(pages_each)}});
  }
  pages_ = backend->Allocate(page_ids.size() * backend->KvPageBytes(shape.spec));
  if (shape.rope_dim == 0) return;
  Floats cosines(static_cast<size_t>(max_length) * static_cast<size_t>(shape.rope_dim) / 2);
  Floats sines(cosines.size());
  const RopeSpec rope = {.rope_dim = shape.rope_dim, .theta = 1e4, .divisors = {}};
  BuildRopeTables(rope, max_length, cosines.data(), sines.data());
  cosines_ = UploadFloats(backend, cosines);
  sines_ = UploadFloats(backend, sines);
}

int64_t AttentionRun::RowSize() const {
  return int64_t{shape_.num_heads + 2 * shape_.spec.num_kv_heads} * shape_.spec.head_dim;
}

Floats AttentionRun::MakeRow(int sequence, int position) const {
  const uint32_t seed = sequences_[static_cast<size_t>(sequence)].seed;
  Floats row = NormalFloats(RowSize(), Mix(seed, static_cast<uint32_t>(position)));
  if (rounded_for_ != nullptr) row = RoundToActivations(*rounded_for_, std::move(row));
  for (const PoisonedValue& poisoned : poisoned_) {
    if (poisoned.sequence != sequence || poisoned.position != position) continue;
    row[static_cast<size_t>(poisoned.index)] = poisoned.value;
  }
  return row;
}

void AttentionRun::Poison(int sequence, int position, int index, float value) {
  poisoned_.push_back({sequence, position, index, value});
}

void AttentionRun::Restart(int sequence, uint32_t seed) {
  sequences_[static_cast<size_t>(sequence)].seed = seed;
  sequences_[static_cast<size_t>(sequence)].length = 0;
  std::erase_if(poisoned_, [&](const PoisonedValue& p) { return p.sequence == sequence; });
}

void AttentionRun::Fork(int from, int to, int num_tokens) {
  const Sequence& source = sequences_[static_cast<size_t>(from)];
  Sequence& copy = sequences_[static_cast<size_t>(to)];
  const auto num_full = static_cast<size_t>(num_tokens / kPageTokens);
  std::copy_n(source.pages.begin(), num_full, copy.pages.begin());
  const int rest = num_tokens % kPageTokens;
  if (rest > 0) {
    backend_->CopyPage(shape_.spec, pages_.As<std::byte>(), source.pages[num_full],
                       copy.pages[num_full], rest);
  }
  copy.seed = source.seed;
  copy.length = num_tokens;
}

void AttentionRun::Append(int sequence_index, int num_tokens, Rows* rows) {
  Sequence& sequence = sequences_[static_cast<size_t>(sequence_index)];
  for (int i = 0; i < num_tokens; ++i) {
    const Floats row = MakeRow(sequence_index, sequence.length + i);
    rows->qkv.insert(rows->qkv.end(), row.begin(), row.end());
  }
  sequence.length += num_tokens;
  CHECK_LE(static_cast<size_t>(sequence.length), sequence.pages.size() * kPageTokens);
  const int num_pages = (sequence.length + kPageTokens - 1) / kPageTokens;
  rows->page_ids.insert(rows->page_ids.end(), sequence.pages.begin(),
                        sequence.pages.begin() + num_pages);
  rows->sequences.push_back(sequence_index);
  rows->query_starts.push_back(rows->query_starts.back() + num_tokens);
  rows->kv_lengths.push_back(sequence.length);
  rows->page_starts.push_back(static_cast<int32_t>(rows->page_ids.size()));
}

void AttentionRun::RunOps(Rows* rows) {
  const SequenceBatch batch = rows->Batch();
  const int head_dim = shape_.spec.head_dim;
  const auto num_rows = static_cast<size_t>(batch.num_rows());
  const std::vector<TokenId> tokens(num_rows);
  backend_->BeginStep({.tokens = tokens, .batch = &batch, .selected = {}});
  const DeviceBuffer qkv = UploadActivations(backend_, rows->qkv);
  const DeviceBuffer out = AllocateActivations(
      backend_, num_rows * static_cast<size_t>(shape_.num_heads) * static_cast<size_t>(head_dim));
  const DeviceBuffer faults = backend_->Allocate(num_rows);
  backend_->RopeStoreKv({.qkv = qkv.As<void>(),
                         .num_heads = shape_.num_heads,
                         .spec = shape_.spec,
                         .pages = pages_.As<std::byte>(),
                         .batch = &batch,
                         .rope_cos = cosines_.As<float>(),
                         .rope_sin = sines_.As<float>(),
                         .rope_dim = shape_.rope_dim,
                         .row_faults = faults.As<uint8_t>()});
  backend_->Attention({.q = qkv.As<void>(),
                       .q_stride = RowSize(),
                       .out = out.As<void>(),
                       .num_heads = shape_.num_heads,
                       .spec = shape_.spec,
                       .pages = pages_.As<std::byte>(),
                       .batch = &batch,
                       .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                       .softcap = shape_.softcap,
                       .window = shape_.window,
                       .causal = shape_.causal});
  rows->faults.resize(num_rows);
  backend_->Download(faults.As<void>(), num_rows, rows->faults.data());
  rows->qkv = DownloadActivations(backend_, qkv);
  rows->out = DownloadActivations(backend_, out);
}

void AttentionRun::KeepOutputs(const Rows& rows) {
  num_faults_ += static_cast<int>(std::count(rows.faults.begin(), rows.faults.end(), 1));
  const int64_t q_size = int64_t{shape_.num_heads} * shape_.spec.head_dim;
  for (size_t i = 0; i < rows.sequences.size(); ++i) {
    const auto sequence = static_cast<size_t>(rows.sequences[i]);
    for (int64_t row = rows.query_starts[i]; row < rows.query_starts[i + 1]; ++row) {
      const auto q = rows.qkv.begin() + row * RowSize();
      queries_[sequence].insert(queries_[sequence].end(), q, q + q_size);
      const auto out = rows.out.begin() + row * q_size;
      outputs_[sequence].insert(outputs_[sequence].end(), out, out + q_size);
    }
  }
}

void AttentionRun::Step(const std::vector<int>& num_tokens) {
  Rows rows;
  for (size_t i = 0; i < num_tokens.size(); ++i) {
    if (num_tokens[i] > 0) Append(static_cast<int>(i), num_tokens[i], &rows);
  }
  RunOps(&rows);
  KeepOutputs(rows);
}

}  // namespace tessera
