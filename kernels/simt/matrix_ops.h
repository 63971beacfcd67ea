#pragma once

#include <cstdint>

#include "kernels/simt/block.h"

namespace tessera::simt {

// ldmatrix.sync.aligned.m8n8.x{1,2,4}[.trans].shared.b16: lane 8j + r gives the address of row r of
// matrix j; register j of lane l holds elements (l / 4, 2 (l % 4)) and the next, or, transposed,
// (2 (l % 4), l / 4) and the one below.
void LoadMatrix(const CallSite& site, uint32_t* registers, const void* row, int num_matrices,
                bool transposed);

// One lane's operands of mma.sync.aligned.m16n8k16.row.col.f32.*.*.f32, in PTX's fragment layout.
struct MmaOperands {
  const uint32_t* a;  // [4]
  uint32_t b[2];
};

// c += a b, products exact, sums in fp32 in ascending order of k. accumulator: [4].
void MmaBf16(const CallSite& site, float* accumulator, const MmaOperands& operands);
void MmaFp16(const CallSite& site, float* accumulator, const MmaOperands& operands);

}  // namespace tessera::simt
