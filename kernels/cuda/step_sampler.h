#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/downloads.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/slot_memory.h"
#include "kernels/cuda/staging.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Backend::Sample: uploads what the rows ask for, with one copy, and brings the results back.
// Memory grows to the most rows of a call. Owned and used by one thread, with one stream.
class StepSampler {
 public:
  explicit StepSampler(const Stream* stream) : stream_(*stream) {}

  // The results come with the downloads.
  void Run(const float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
           const SlotMemory& slots, Staging* staging, Downloads* downloads,
           std::span<SampleResult> results);

 private:
  void Reserve(size_t row_bytes, size_t num_rows, int64_t vocab_size);

  const Stream& stream_;
  DeviceMemory rows_;
  DeviceMemory workspace_;
  DeviceMemory results_;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
