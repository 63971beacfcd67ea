#include "kernels/cpu/row_ops.h"

namespace tessera {
namespace {

// Below this many elements a second thread costs more than it saves: waking takes about 1 us.
constexpr int64_t kMinElementsToShare = 8192;

const RowKernels& KernelsFor(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Vnni:
    case CpuIsa::kAmx:
      return kRowKernelsAvx512;
    case CpuIsa::kAvx2:
      return kRowKernelsAvx2;
    case CpuIsa::kPortable:
    case CpuIsa::kAuto:
      break;
  }
  return kRowKernelsPortable;
}

// Calls function(first_row, num_rows) for disjoint ranges that cover all rows.
template <typename Function>
void SplitRows(WorkerPool* pool, int64_t num_rows, int64_t dim, const Function& function) {
  const int num_threads = pool->num_threads();
  if (num_rows == 1 || num_rows * dim < kMinElementsToShare) return function(0, num_rows);
  pool->Run([&](int worker) {
    const int64_t begin = num_rows * worker / num_threads;
    const int64_t end = num_rows * (worker + 1) / num_threads;
    if (begin < end) function(begin, end - begin);
  });
}

}  // namespace

CpuRowOps::CpuRowOps(WorkerPool* pool, CpuIsa isa) : pool_(pool), kernels_(KernelsFor(isa)) {}

void CpuRowOps::RmsNorm(const float* x, const float* weight, float epsilon, int64_t num_rows,
                        int64_t dim, float* out) {
  SplitRows(pool_, num_rows, dim, [&](int64_t row, int64_t count) {
    kernels_.rms_norm(x + row * dim, weight, epsilon, count, dim, out + row * dim);
  });
}

void CpuRowOps::AddRmsNorm(const float* x, const float* weight, float epsilon, int64_t num_rows,
                           int64_t dim, float* residual, float* out) {
  SplitRows(pool_, num_rows, dim, [&](int64_t row, int64_t count) {
    kernels_.add_rms_norm(x + row * dim, weight, epsilon, count, dim, residual + row * dim,
                          out + row * dim);
  });
}

void CpuRowOps::SwiGlu(const float* gate_up, int64_t num_rows, int64_t dim, float* out) {
  SplitRows(pool_, num_rows, dim, [&](int64_t row, int64_t count) {
    kernels_.swiglu(gate_up + 2 * row * dim, count, dim, out + row * dim);
  });
}

}  // namespace tessera
