#pragma once

#include "kernels/cuda/attention_load.cuh"
#include "kernels/cuda/attention_roles.cuh"
#include "kernels/cuda/launch.h"

// Attention of one step: blocks take items from the plan, longest first, until there are none.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Ends the split before `page`: the accumulators become the total of the item's splits so far.
template <int D, int kTiles, int kFragments>
__device__ __forceinline__ void EndSplit(const AttentionKernelParams& params, const BlockItem& item,
                                         int page, Accumulators<kTiles, kFragments>& accumulators) {
  accumulators.FinishSplit(params.scale_log2);
  if ((page - 1) / kPagesPerSplit <= item.pages.begin / kPagesPerSplit) return;
  SplitTotal<D, kTiles, kFragments>(params).AddTo(accumulators.softmax, accumulators.out);
}

template <int D, int kTiles, int kFragments>
__device__ __forceinline__ void BeginSplit(const AttentionKernelParams& params,
                                           Accumulators<kTiles, kFragments>& accumulators) {
  SplitTotal<D, kTiles, kFragments>(params).Set(accumulators.softmax, accumulators.out);
  accumulators.Reset();
}

// Goes through the item's pages.
template <typename Role>
__device__ __forceinline__ void AttendPages(
    const AttentionKernelParams& params, const BlockItem& item,
    Accumulators<Role::kTiles, Role::kFragments>& accumulators) {
  using T = typename Role::Element;
  constexpr int D = Role::kHeadDim;
  char* shared = DynamicShared<char>();
  LoadQueries<T, D, Role::kRows>(params, item.rows, shared);
  KeyValueRing<T, D, Role::kStages> ring(params, item, shared + Role::kRingOffset);
  ring.Start();
  for (int page = item.pages.begin; page < item.pages.end; ++page) {
    if (page % kPagesPerSplit == 0 && page > item.pages.begin) {
      EndSplit<D>(params, item, page, accumulators);
      BeginSplit<D>(params, accumulators);
    }
    float scores[Role::kTiles][8][4];
    Role::Scores(params, item, page, shared, ring.NextKeys(page), scores);
    accumulators.Update(params.scale_log2, scores);
    uint32_t weights[Role::kTiles][4][4];
    TESSERA_UNROLL
    for (int i = 0; i < Role::kTiles; ++i) PackWeights<T>(scores[i], weights[i]);
    AccumulateValues<T, D>(weights, ring.NextValues(page), Role::first_pair(), Role::kPairStep,
                           accumulators.out);
  }
  CopyAsyncWait<0>();
  EndSplit<D>(params, item, item.pages.end, accumulators);
}

template <typename Role>
__device__ __forceinline__ void AttendItem(const AttentionKernelParams& params,
                                           const BlockItem& item) {
  Accumulators<Role::kTiles, Role::kFragments> accumulators;
  accumulators.Reset();
  AttendPages<Role>(params, item, accumulators);
  if (item.merges_splits()) {
    Role::Store(params, item.rows, DynamicShared<char>(), accumulators);
    return;
  }
  TESSERA_UNROLL
  for (int i = 0; i < Role::kTiles; ++i) {
    const int row = Role::WarpRow(i) + FreshThread() % 32 / 4;
    StorePartial<Role::kHeadDim>(params, item.rows, item.partial_row, row, Role::first_pair(),
                                 Role::kPairStep, accumulators.softmax[i], accumulators.out[i]);
  }
}

// The plan's item `unit` / num_kv_heads for KV head `unit` % num_kv_heads.
template <typename T, int D>
__device__ inline BlockItem ReadItem(const AttentionKernelParams& params, int unit) {
  if (unit >= params.plan->num_items * params.num_kv_heads) return {};
  const AttentionItem& item = params.plan->Items()[unit / params.num_kv_heads];
  BlockItem result;
  result.rows = ReadRows(params.step, item.sequence, item.first_row, item.num_rows,
                         unit % params.num_kv_heads);
  result.pages = VisiblePages(params, result.rows, item.split);
  result.head = static_cast<const T*>(params.pages) + result.rows.kv_head * (kPageTokens * D);
  result.tile_rows = item.tile_rows;
  result.split = item.split;
  result.partial_row = item.partial_row;
  return result;
}

// The block's next item; `turn` counts the calls. Two places take turns, so that nobody still reads
// what is written.
template <typename T, int D>
__device__ __forceinline__ const BlockItem& TakeItem(const AttentionKernelParams& params,
                                                     int turn) {
  TESSERA_SHARED(BlockItem[2], items);
  if (threadIdx.x == 0) {
    items[turn % 2] = ReadItem<T, D>(params, static_cast<int>(atomicAdd(params.counters, 1u)));
  }
  __syncthreads();
  return items[turn % 2];
}

// The last block to end sets the counters back for the next launch.
__device__ __forceinline__ void LeaveLaunch(uint32_t* counters) {
  if (threadIdx.x != 0 || atomicAdd(&counters[1], 1u) + 1 != gridDim.x) return;
  counters[0] = 0;
  counters[1] = 0;
}

template <typename T, int D>
__global__ void __launch_bounds__(kAttentionThreads, AttentionTile<D>::kBlocksPerSm)
    AttentionKernel(AttentionKernelParams params) {
  for (int turn = 0;; ++turn) {
    const BlockItem& item = TakeItem<T, D>(params, turn);
    if (item.tile_rows == 0) break;
    if (item.tile_rows == kNarrowRows) {
      AttendItem<NarrowRole<T, D>>(params, item);
    } else if (AttentionTile<D>::kWideRows == 64 || item.tile_rows == 64) {
      AttendItem<WideRole<T, D, 1>>(params, item);
    } else {
      AttendItem<WideRole<T, D, AttentionTile<D>::kWideRows / 64>>(params, item);
    }
  }
  LeaveLaunch(params.counters);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
