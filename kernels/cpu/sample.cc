#include "kernels/cpu/sample.h"

#include <atomic>

#include "base/check.h"
#include "kernels/cpu/sample_kernels.h"
#include "kernels/cpu/sample_row.h"

namespace tessera {
namespace {

const SampleKernels& KernelsFor(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Vnni:
    case CpuIsa::kAmx:
      return kSampleKernelsAvx512;
    case CpuIsa::kAvx2:
      return kSampleKernelsAvx2;
    case CpuIsa::kPortable:
    case CpuIsa::kAuto:
      break;
  }
  return kSampleKernelsPortable;
}

}  // namespace

CpuSampler::CpuSampler(WorkerPool* pool, CpuIsa isa) : pool_(pool) {
  for (int worker = 0; worker < pool->num_threads(); ++worker) {
    row_samplers_.push_back(std::make_unique<RowSampler>(&KernelsFor(isa)));
  }
}

CpuSampler::~CpuSampler() = default;

void CpuSampler::Run(const float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
                     std::span<SampleResult> results) {
  CHECK_EQ(rows.size(), results.size());
  // Of all, at once: who takes a row in some later call is chance.
  for (auto& sampler : row_samplers_) sampler->Reserve(static_cast<size_t>(vocab_size));
  std::atomic<size_t> next_row{0};
  const auto take_rows = [&](int worker) {
    RowSampler& sampler = *row_samplers_[static_cast<size_t>(worker)];
    while (true) {
      const size_t i = next_row.fetch_add(1, std::memory_order_relaxed);
      if (i >= rows.size()) return;
      const float* row_logits = logits + static_cast<int64_t>(i) * vocab_size;
      sampler.Run({row_logits, static_cast<size_t>(vocab_size)}, rows[i], &results[i]);
    }
  };
  // A single row gains nothing from waking the others.
  if (rows.size() <= 1) {
    take_rows(0);
  } else {
    pool_->Run(take_rows);
  }
}

}  // namespace tessera
