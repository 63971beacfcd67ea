#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/upload_buffer.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Backend::Sample: uploads what the rows ask for, with one copy, and brings the results back.
// Memory grows to the most rows ever outstanding. Owned and used by one thread, with one stream.
class StepSampler {
 public:
  explicit StepSampler(const Stream* stream) : stream_(*stream), rows_(stream) {}

  // results are filled by Deliver.
  void Run(const float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
           std::span<SampleResult> results);
  // REQUIRES: the stream is synchronised.
  void Deliver();

 private:
  void Reserve(size_t num_rows, int64_t vocab_size);

  const Stream& stream_;
  UploadBuffer rows_;
  DeviceMemory workspace_;
  DeviceMemory device_results_;
  PinnedMemory host_results_;
  // Where the outstanding rows' results go, in the order of host_results_.
  std::vector<SampleResult*> outstanding_;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
