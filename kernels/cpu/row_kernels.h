#pragma once

#include <cstdint>

namespace tessera {

// The row-wise ops of one instruction set. Each call does rows [first, first + num_rows) that the
// pointers already name; docs/numerics.md gives the order of every operation.
struct RowKernels {
  void (*rms_norm)(const float* x, const float* weight, float epsilon, int64_t num_rows,
                   int64_t dim, float* out);
  void (*add_rms_norm)(const float* x, const float* weight, float epsilon, int64_t num_rows,
                       int64_t dim, float* residual, float* out);
  void (*swiglu)(const float* gate_up, int64_t num_rows, int64_t dim, float* out);
};

extern const RowKernels kRowKernelsPortable;
extern const RowKernels kRowKernelsAvx2;
extern const RowKernels kRowKernelsAvx512;

}  // namespace tessera
