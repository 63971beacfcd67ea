#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

struct GatherParams {
  const void* x = nullptr;        // rows of row_bytes
  const int32_t* rows = nullptr;  // [num_rows]
  int num_rows = 0;
  int64_t row_bytes = 0;  // a multiple of 16
  void* out = nullptr;    // [num_rows] of row_bytes: out[i] = x[rows[i]]
};

void GatherRows(const GatherParams& params, const Stream& stream);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
