#pragma once

#include "kernels/cuda/gemm_weight.h"
#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

inline constexpr int kMaxGemmWeights = 3;  // side by side: q, k, v

// out[r] = the weights' products with x[r], side by side. For every number of rows the same bits:
// one fp32 accumulator an output, tensor cores alone, k16 steps ascending from 0, never split.
//
// A float weight is of type T: acc = mma(acc, x, w). A quantised one is not rounded: its integers
// q are exact in T, and of each block of 32 columns, ascending,
//   acc = fma(dot, d, acc), dot = mma(mma(0, x, q), x', q') over the block's two k16 steps
//         (Q6_K: of each step acc = fma(mma(0, x, q), its d, acc));
//   acc = fma(sum, m, acc) in formats with a minimum, sum the same of x and ones.
struct GemmParams {
  const void* x = nullptr;  // [num_rows, cols] of T, aligned to 16 bytes
  int num_rows = 0;
  int num_weights = 0;
  // cols alike, a multiple of 8 (quantised: of 32); all of one stored type.
  WeightView weights[kMaxGemmWeights];
  void* out = nullptr;      // [num_rows] rows of out_stride elements
  int64_t out_stride = 0;   // at least the sum of the weights' rows
  bool out_is_f32 = false;  // else of T, rounded once
};

template <typename T>
void Gemm(const GemmParams& params, const Stream& stream);

// Which tile serves a number of rows; no choice changes a bit.
enum class GemmTileSize : uint8_t { k16Rows, k64Rows, k128Rows };
GemmTileSize ChooseGemmTile(int num_rows);

// As Gemm, with tiles of a given size: for tests and measurements.
template <typename T>
void GemmWithTile(GemmTileSize size, const GemmParams& params, const Stream& stream);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
