#include "kernels/cuda/step_sampler.h"

#include <algorithm>

#include "base/check.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr size_t kMinRows = 64;

void Fill(const DeviceSampleResult& from, SampleResult* to) {
  to->token = from.token;
  to->status = from.status;
  const auto num_logprobs = static_cast<size_t>(from.num_logprobs);
  CHECK_LE(num_logprobs, to->logprobs.size());
  std::copy_n(from.logprobs, num_logprobs, to->logprobs.begin());
  to->logprobs = to->logprobs.first(num_logprobs);
}

}  // namespace

void StepSampler::Run(const float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
                      std::span<SampleResult> results) {
  CHECK_EQ(rows.size(), results.size());
  if (rows.empty()) return;
  Reserve(rows.size(), vocab_size);
  char* host = rows_.BeginWrite(PackedSampleRowsBytes(rows));
  const DeviceSampleRow* device_rows = PackSampleRows(rows, host, rows_.device());
  rows_.Copy();
  auto* device_results = reinterpret_cast<DeviceSampleResult*>(device_results_.data());
  TESSERA_CUDA_NAMESPACE::Sample({.logits = logits,
                                  .vocab_size = vocab_size,
                                  .rows = device_rows,
                                  .num_rows = static_cast<int>(rows.size()),
                                  .workspace = workspace_.data(),
                                  .results = device_results},
                                 stream_);
  CopyToHostAsync(host_results_.data() + outstanding_.size() * sizeof(DeviceSampleResult),
                  device_results, rows.size() * sizeof(DeviceSampleResult), stream_);
  for (SampleResult& result : results) outstanding_.push_back(&result);
}

void StepSampler::Deliver() {
  const auto* results = reinterpret_cast<const DeviceSampleResult*>(host_results_.data());
  for (size_t i = 0; i < outstanding_.size(); ++i) Fill(results[i], outstanding_[i]);
  outstanding_.clear();
}

void StepSampler::Reserve(size_t num_rows, int64_t vocab_size) {
  const size_t workspace_bytes =
      SampleWorkspaceBytes(static_cast<int>(std::max(num_rows, kMinRows)), vocab_size);
  const size_t result_bytes = num_rows * sizeof(DeviceSampleResult);
  const size_t outstanding_bytes = outstanding_.size() * sizeof(DeviceSampleResult);
  if (workspace_bytes <= workspace_.size_bytes() && result_bytes <= device_results_.size_bytes() &&
      outstanding_bytes + result_bytes <= host_results_.size_bytes()) {
    return;
  }
  stream_.Synchronize();  // the old memory's readers and writers
  Deliver();
  const size_t capacity =
      std::max(kMinRows * sizeof(DeviceSampleResult), 2 * (outstanding_bytes + result_bytes));
  device_results_ = DeviceMemory(capacity);
  host_results_ = PinnedMemory(capacity);
  if (workspace_bytes > workspace_.size_bytes()) workspace_ = DeviceMemory(workspace_bytes);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
