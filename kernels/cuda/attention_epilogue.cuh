#pragma once

#include "kernels/cuda/attention_softmax.cuh"

// Where results go: merged over the splits, to be combined later, or out.
//
// A warp's accumulators cover pairs of 8 columns: fragments 2 j and 2 j + 1 are columns
// [16 (first_pair + j * pair_step), + 16), where that is below D.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// The total over an item's splits before the present one, in the block's scratch (L2, as a rule): a
// thread reads only what it wrote.
template <int D, int kTiles, int kFragments>
class SplitTotal {
 public:
  __device__ __forceinline__ explicit SplitTotal(const AttentionKernelParams& params)
      : slots_(reinterpret_cast<float4*>(params.scratch +
                                         int64_t{blockIdx.x} * AttentionTile<D>::kScratchFloats) +
               FreshThread()) {}

  // Turns a finished split into the total with it.
  __device__ __forceinline__ void AddTo(SoftmaxRows (&softmax)[kTiles],
                                        float (&out)[kTiles][kFragments][4]) const {
    TESSERA_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      const float4 stats = Slot(i, kFragments);
      const RowMerge low(stats.x, stats.z, softmax[i].max[0], softmax[i].sum[0]);
      const RowMerge high(stats.y, stats.w, softmax[i].max[1], softmax[i].sum[1]);
      softmax[i] = {{low.max, high.max},
                    {low(stats.z, softmax[i].sum[0]), high(stats.w, softmax[i].sum[1])}};
      TESSERA_UNROLL
      for (int j = 0; j < kFragments; ++j) {
        const float4 total = Slot(i, j);
        float(&part)[4] = out[i][j];
        part[0] = low(total.x, part[0]);
        part[1] = low(total.y, part[1]);
        part[2] = high(total.z, part[2]);
        part[3] = high(total.w, part[3]);
      }
    }
  }

  // Keeps the total for the next split.
  __device__ __forceinline__ void Set(const SoftmaxRows (&softmax)[kTiles],
                                      const float (&out)[kTiles][kFragments][4]) const {
    TESSERA_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      const SoftmaxRows& rows = softmax[i];
      Slot(i, kFragments) = {rows.max[0], rows.max[1], rows.sum[0], rows.sum[1]};
      TESSERA_UNROLL
      for (int j = 0; j < kFragments; ++j) {
        Slot(i, j) = {out[i][j][0], out[i][j][1], out[i][j][2], out[i][j][3]};
      }
    }
  }

 private:
  __device__ __forceinline__ float4& Slot(int tile, int fragment) const {
    return slots_[(tile * (kFragments + 1) + fragment) * kAttentionThreads];
  }

  float4* const slots_;
};

// Stores a split's result of rows `row` and row + 8 of the item for the combine kernel.
template <int D, int kFragments>
__device__ __forceinline__ void StorePartial(const AttentionKernelParams& params,
                                             const AttentionRows& rows, int partial_row, int row,
                                             int first_pair, int pair_step,
                                             const SoftmaxRows& softmax,
                                             const float (&out)[kFragments][4]) {
  const int lane = FreshThread() % 32;
  TESSERA_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (row + 8 * i >= rows.num_rows) break;
    const int64_t index =
        int64_t{rows.kv_head} * params.plan->num_partial_rows + partial_row + row + 8 * i;
    if (lane % 4 == 0 && first_pair == 0) {
      params.partial_stats[index] = {softmax.max[i], softmax.sum[i]};
    }
    float* values = params.partial_out + index * D + lane % 4 * 2;
    TESSERA_UNROLL
    for (int j = 0; j < kFragments; ++j) {
      const int pair = first_pair + j / 2 * pair_step;
      if (pair >= D / 16) break;
      *reinterpret_cast<float2*>(values + pair * 16 + j % 2 * 8) = {out[j][2 * i],
                                                                    out[j][2 * i + 1]};
    }
  }
}

__device__ __forceinline__ void StoreLse(const AttentionKernelParams& params,
                                         const AttentionRows& rows, int row, float max, float sum) {
  if (params.lse == nullptr || row >= rows.num_rows) return;
  params.lse[rows.OutputRow(row, params.group, params.num_heads)] = LogSumExp(max, sum);
}

// Normalises rows `row` and row + 8 of the item and stores them as they stand, 4 bytes a lane: for
// narrow items.
template <typename T, int D, int kFragments>
__device__ __forceinline__ void StoreOutput(const AttentionKernelParams& params,
                                            const AttentionRows& rows, int row, int first_pair,
                                            int pair_step, const SoftmaxRows& softmax,
                                            const float (&out)[kFragments][4]) {
  const int lane = FreshThread() % 32;
  TESSERA_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (row + 8 * i >= rows.num_rows) break;
    if (lane % 4 == 0 && first_pair == 0) {
      StoreLse(params, rows, row + 8 * i, softmax.max[i], softmax.sum[i]);
    }
    const float normaliser = Normaliser(softmax.sum[i]);
    T* values = static_cast<T*>(params.out) +
                rows.OutputRow(row + 8 * i, params.group, params.num_heads) * D + lane % 4 * 2;
    TESSERA_UNROLL
    for (int j = 0; j < kFragments; ++j) {
      const int pair = first_pair + j / 2 * pair_step;
      if (pair >= D / 16) break;
      *reinterpret_cast<uint32_t*>(values + pair * 16 + j % 2 * 8) =
          Pack2<T>(Normalise(out[j][2 * i], normaliser), Normalise(out[j][2 * i + 1], normaliser));
    }
  }
}

// The same of all columns of a warp's 16 rows, by way of their own queries' place in shared memory,
// so that global memory sees whole rows: for wide items.
template <typename T, int D, int kRows>
__device__ __forceinline__ void StoreOutputTile(const AttentionKernelParams& params,
                                                const AttentionRows& rows, int first_row,
                                                char* staging, const SoftmaxRows& softmax,
                                                const float (&out)[D / 8][4]) {
  const int lane = FreshThread() % 32;
  const LaneChunk<D, kRows> chunk(first_row + lane / 4, 0);
  __syncwarp();
  TESSERA_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int row = first_row + lane / 4 + 8 * i;
    if (lane % 4 == 0) StoreLse(params, rows, row, softmax.max[i], softmax.sum[i]);
    const float normaliser = Normaliser(softmax.sum[i]);
    TESSERA_UNROLL
    for (int j = 0; j < D / 8; ++j) {
      *reinterpret_cast<uint32_t*>(staging + chunk.Offset(8 * i, j) + lane % 4 * 4) =
          Pack2<T>(Normalise(out[j][2 * i], normaliser), Normalise(out[j][2 * i + 1], normaliser));
    }
  }
  __syncwarp();
  constexpr int kChunks = D / 8;
  TESSERA_NO_UNROLL
  for (int i = lane; i < 16 * kChunks; i += 32) {
    const int row = first_row + i / kChunks;
    if (row >= rows.num_rows) break;
    T* values = static_cast<T*>(params.out) +
                rows.OutputRow(row, params.group, params.num_heads) * D + i % kChunks * 8;
    Store16(values, Load16(staging + ChunkOffset<D, kRows>(row, i % kChunks)));
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
