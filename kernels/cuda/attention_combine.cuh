#pragma once

#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/launch.h"

// Merges the splits that were items of their own, in index order: what SplitTotal does with those
// of one item, bit for bit. A warp a row, four columns a lane.

namespace tessera::TESSERA_CUDA_NAMESPACE {

template <typename T, int D>
__device__ __forceinline__ void CombineRow(const AttentionKernelParams& params,
                                           const AttentionCombine& combine,
                                           const AttentionRows& rows, int row) {
  constexpr int kChunks = (D + 127) / 128;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int64_t index = int64_t{rows.kv_head} * params.plan->num_partial_rows + combine.partial_row + row;
  float2 total_stats = {kMinusInfinity, 0.0f};
  float total[kChunks][4] = {};
  for (int split = 0; split < combine.num_splits; ++split, index += combine.split_stride) {
    const float2 stats = params.partial_stats[index];
    const RowMerge merge(total_stats.x, total_stats.y, stats.x, stats.y);
    total_stats = {merge.max, merge(total_stats.y, stats.y)};
    TESSERA_UNROLL
    for (int i = 0; i < kChunks; ++i) {
      const int column = 128 * i + 4 * lane;
      if (column >= D) break;
      const auto part = *reinterpret_cast<const float4*>(params.partial_out + index * D + column);
      total[i][0] = merge(total[i][0], part.x);
      total[i][1] = merge(total[i][1], part.y);
      total[i][2] = merge(total[i][2], part.z);
      total[i][3] = merge(total[i][3], part.w);
    }
  }
  const int64_t out_row = rows.OutputRow(row, params.group, params.num_heads);
  const float normaliser = Normaliser(total_stats.y);
  TESSERA_UNROLL
  for (int i = 0; i < kChunks; ++i) {
    const int column = 128 * i + 4 * lane;
    if (column >= D) break;
    uint2 packed;
    packed.x = Pack2<T>(Normalise(total[i][0], normaliser), Normalise(total[i][1], normaliser));
    packed.y = Pack2<T>(Normalise(total[i][2], normaliser), Normalise(total[i][3], normaliser));
    *reinterpret_cast<uint2*>(static_cast<T*>(params.out) + out_row * D + column) = packed;
  }
  if (params.lse != nullptr && lane == 0) {
    params.lse[out_row] = LogSumExp(total_stats.x, total_stats.y);
  }
}

template <typename T, int D>
__global__ void __launch_bounds__(kAttentionThreads, 8)
    AttentionCombineKernel(AttentionKernelParams params) {
  const int num_units = params.plan->num_combines * params.num_kv_heads;
  for (int unit = static_cast<int>(blockIdx.x); unit < num_units;
       unit += static_cast<int>(gridDim.x)) {
    const AttentionCombine& combine = params.plan->Combines()[unit / params.num_kv_heads];
    const AttentionRows rows = {combine.sequence, unit % params.num_kv_heads, combine.first_row,
                                combine.num_rows};
    for (int row = static_cast<int>(threadIdx.x) / 32; row < combine.num_rows;
         row += kAttentionWarps) {
      CombineRow<T, D>(params, combine, rows, row);
    }
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
