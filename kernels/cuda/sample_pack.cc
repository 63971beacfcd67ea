#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/cuda/sample.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr size_t kAlignment = 16;

size_t AlignUp(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// Hands out pieces of the packed memory, one after another. Without host memory it only counts.
class Packer {
 public:
  Packer(char* host, char* device) : host_(host), device_(device) {}

  // Room for `count` values: its address on the host in *values, on the device as the result.
  template <typename T>
  T* Allocate(size_t count, T** values) {
    const size_t begin = size_bytes_;
    size_bytes_ += AlignUp(count * sizeof(T));
    *values = host_ == nullptr ? nullptr : reinterpret_cast<T*>(host_ + begin);
    return count == 0 ? nullptr : reinterpret_cast<T*>(device_ + begin);
  }

  size_t size_bytes() const { return size_bytes_; }

 private:
  char* host_;
  char* device_;
  size_t size_bytes_ = 0;
};

DeviceSampleRow WithScalars(const SampleRow& row) {
  const SamplingParams& params = *row.params;
  DeviceSampleRow out;
  out.seed = params.seed;
  out.position = row.position;
  out.temperature = params.temperature;
  out.top_k = params.top_k;
  out.top_p = params.top_p;
  out.min_p = params.min_p;
  out.repetition_penalty = params.repetition_penalty;
  out.frequency_penalty = params.frequency_penalty;
  out.presence_penalty = params.presence_penalty;
  out.forced = row.forced;
  out.draft = row.draft;
  out.num_logprobs = row.num_logprobs;
  out.wants_logprob = row.wants_logprob;
  out.num_banned = static_cast<int32_t>(row.banned.size());
  out.num_biases = static_cast<int32_t>(params.logit_bias.size());
  return out;
}

// Biases of a token given twice add up in the request's order, hence the stable sort.
void WriteBiases(const SamplingParams& params, TokenBias* biases) {
  const size_t count = params.logit_bias.size();
  for (size_t i = 0; i < count; ++i) {
    biases[i] = {params.logit_bias[i].first, params.logit_bias[i].second};
  }
  std::stable_sort(biases, biases + count,
                   [](const TokenBias& a, const TokenBias& b) { return a.token < b.token; });
}

DeviceSampleRow PackRow(const SampleRow& row, bool writes, Packer* packer) {
  DeviceSampleRow out = WithScalars(row);
  TokenId* banned = nullptr;
  TokenBias* biases = nullptr;
  TokenCount* seen = nullptr;
  int32_t* num_seen = nullptr;
  CHECK(row.slot < 0 || row.seen.empty()) << "what slot " << row.slot << " saw is on the device";
  out.banned = packer->Allocate(row.banned.size(), &banned);
  out.biases = packer->Allocate(row.params->logit_bias.size(), &biases);
  out.seen = packer->Allocate(row.seen.size(), &seen);
  out.num_seen = packer->Allocate(1, &num_seen);
  if (!writes) return out;
  std::copy(row.banned.begin(), row.banned.end(), banned);
  WriteBiases(*row.params, biases);
  std::copy(row.seen.begin(), row.seen.end(), seen);
  const auto count = static_cast<int32_t>(row.seen.size());
  std::copy_n(&count, 1, num_seen);
  return out;
}

void PointToSlot(const SampleRow& row, const SlotMemory& slots, DeviceSampleRow* out) {
  CHECK(row.slot >= 0 || row.draft < 0) << "a draft's row has a slot";
  if (row.slot < 0) return;
  out->last_token = slots.last_token(row.slot);
  if (!row.params->has_penalties()) return;
  out->seen = slots.seen(row.slot);
  out->num_seen = slots.num_seen(row.slot);
}

}  // namespace

size_t PackedSampleRowsBytes(std::span<const SampleRow> rows) {
  Packer packer(nullptr, nullptr);
  DeviceSampleRow* unused = nullptr;
  packer.Allocate(rows.size(), &unused);
  for (const SampleRow& row : rows) PackRow(row, false, &packer);
  return packer.size_bytes();
}

const DeviceSampleRow* PackSampleRows(std::span<const SampleRow> rows, const SlotMemory& slots,
                                      void* host, void* device) {
  Packer packer(static_cast<char*>(host), static_cast<char*>(device));
  DeviceSampleRow* host_rows = nullptr;
  const DeviceSampleRow* device_rows = packer.Allocate(rows.size(), &host_rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    CHECK(rows[i].num_logprobs >= 0 && rows[i].num_logprobs <= kMaxLogprobs)
        << rows[i].num_logprobs << " logprobs";
    host_rows[i] = PackRow(rows[i], true, &packer);
    PointToSlot(rows[i], slots, &host_rows[i]);
  }
  return device_rows;
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
