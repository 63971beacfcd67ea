#include "kernels/cuda/step_sampler.h"

#include <algorithm>

#include "base/check.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr size_t kMinRows = 64;
constexpr size_t kMinRowBytes = size_t{256} << 10;

void Fill(const DeviceSampleResult& from, SampleResult* to) {
  to->token = from.token;
  to->status = from.status;
  const auto num_logprobs = static_cast<size_t>(from.num_logprobs);
  CHECK_LE(num_logprobs, to->logprobs.size());
  std::copy_n(from.logprobs, num_logprobs, to->logprobs.begin());
  to->logprobs = to->logprobs.first(num_logprobs);
}

// A Downloads::Receiver.
void FillAll(const char* data, size_t size_bytes, void* host) {
  const auto* from = reinterpret_cast<const DeviceSampleResult*>(data);
  auto* to = static_cast<SampleResult*>(host);
  for (size_t i = 0; i < size_bytes / sizeof(*from); ++i) Fill(from[i], to + i);
}

void Grow(size_t size_bytes, size_t min_bytes, const Stream& stream, DeviceMemory* memory) {
  if (size_bytes <= memory->size_bytes()) return;
  stream.Synchronize();  // the old memory's readers and writers
  *memory = DeviceMemory(std::max({min_bytes, size_bytes, 2 * memory->size_bytes()}));
}

}  // namespace

void StepSampler::Run(const float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
                      const SlotMemory& slots, Staging* staging, Downloads* downloads,
                      std::span<SampleResult> results) {
  CHECK_EQ(rows.size(), results.size());
  if (rows.empty()) return;
  const size_t row_bytes = PackedSampleRowsBytes(rows);
  Reserve(row_bytes, rows.size(), vocab_size);
  char* host = staging->Take(row_bytes);
  const DeviceSampleRow* device_rows = PackSampleRows(rows, slots, host, rows_.data());
  CopyToDeviceAsync(rows_.data(), host, row_bytes, stream_);
  auto* device_results = reinterpret_cast<DeviceSampleResult*>(results_.data());
  TESSERA_CUDA_NAMESPACE::Sample({.logits = logits,
                                  .vocab_size = vocab_size,
                                  .rows = device_rows,
                                  .num_rows = static_cast<int>(rows.size()),
                                  .workspace = workspace_.data(),
                                  .results = device_results},
                                 stream_);
  downloads->Add(device_results, rows.size() * sizeof(DeviceSampleResult), results.data(), FillAll);
}

void StepSampler::Reserve(size_t row_bytes, size_t num_rows, int64_t vocab_size) {
  const size_t most_rows = std::max(num_rows, kMinRows);
  const size_t workspace_bytes = SampleWorkspaceBytes(static_cast<int>(most_rows), vocab_size);
  Grow(row_bytes, kMinRowBytes, stream_, &rows_);
  Grow(workspace_bytes, 0, stream_, &workspace_);
  Grow(most_rows * sizeof(DeviceSampleResult), 0, stream_, &results_);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
