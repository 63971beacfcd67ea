#pragma once

#include "kernels/cuda/gemm_mma.cuh"

// A warp's accumulators -> out.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Elements at `index` and the next, of which the second may not exist. out's rows may begin at odd
// elements, then pairs are stored one by one.
template <typename T>
__device__ __forceinline__ void StoreOutputs(const GemmParams& params, int64_t index, bool has_both,
                                             bool aligned, float low, float high) {
  if (params.out_is_f32) {
    float* out = static_cast<float*>(params.out) + index;
    if (has_both && aligned) {
      *reinterpret_cast<float2*>(out) = make_float2(low, high);
      return;
    }
    out[0] = low;
    if (has_both) out[1] = high;
    return;
  }
  T* out = static_cast<T*>(params.out) + index;
  if (has_both && aligned) {
    *reinterpret_cast<uint32_t*>(out) = Pack2<T>(low, high);
    return;
  }
  out[0] = FromFloat<T>(low);
  if (has_both) out[1] = FromFloat<T>(high);
}

template <typename T, typename Tile>
__device__ __forceinline__ void StoreTile(const GemmParams& params, const WeightView& weight,
                                          const GemmBlock& block,
                                          const GemmAccumulators<Tile>& accumulators) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int first_row = block.first_row + warp / Tile::kWarpsAcross * Tile::kWarpRows + lane / 4;
  const int first_col =
      block.first_col + warp % Tile::kWarpsAcross * Tile::kWarpCols + lane % 4 * 2;
  const bool aligned = (params.out_stride | block.first_out) % 2 == 0;
  TESSERA_UNROLL
  for (int i = 0; i < Tile::kMmasDown; ++i) {
    TESSERA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + i * kMmaRows + half * 8;
      if (row >= params.num_rows) continue;
      TESSERA_UNROLL
      for (int j = 0; j < Tile::kMmasAcross; ++j) {
        const int col = first_col + j * kMmaCols;
        if (col >= weight.rows) continue;
        const int64_t index = row * params.out_stride + block.first_out + col;
        StoreOutputs<T>(params, index, col + 1 < weight.rows, aligned, accumulators[i][j][half * 2],
                        accumulators[i][j][half * 2 + 1]);
      }
    }
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
