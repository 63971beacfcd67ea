#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/worker_pool.h"
#include "kernels/backend.h"

namespace tessera {

class RowSampler;

// Backend::Sample on the CPU. Threads take whole rows, whose results do not depend on who takes
// them. Every thread's scratch grows with the first call of a vocabulary's size; later calls
// allocate nothing. The pool is not owned.
class CpuSampler {
 public:
  // REQUIRES: IsSupported(isa), isa != kAuto.
  CpuSampler(WorkerPool* pool, CpuIsa isa);
  ~CpuSampler();

  // logits: [rows.size(), vocab_size], left as they are.
  void Run(const float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
           std::span<SampleResult> results);

 private:
  WorkerPool* const pool_;
  std::vector<std::unique_ptr<RowSampler>> row_samplers_;  // one a worker
};

}  // namespace tessera
