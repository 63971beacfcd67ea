#pragma once

#include <cstdint>

#include "base/worker_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/row_kernels.h"

namespace tessera {

// RmsNorm, AddRmsNorm and SwiGlu (Backend's contracts). Threads split the rows. The pool is not
// owned.
class CpuRowOps {
 public:
  // REQUIRES: IsSupported(isa), isa != kAuto.
  CpuRowOps(WorkerPool* pool, CpuIsa isa);

  void RmsNorm(const float* x, const float* weight, float epsilon, int64_t num_rows, int64_t dim,
               float* out);
  void AddRmsNorm(const float* x, const float* weight, float epsilon, int64_t num_rows, int64_t dim,
                  float* residual, float* out);
  void SwiGlu(const float* gate_up, int64_t num_rows, int64_t dim, float* out);

 private:
  WorkerPool* const pool_;
  const RowKernels& kernels_;
};

}  // namespace tessera
