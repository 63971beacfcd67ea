#pragma once

#include "kernels/cuda/attention_load.cuh"
#include "kernels/cuda/attention_roles.cuh"
#include "kernels/cuda/launch.h"

// Attention of one step: blocks take items from the plan, longest first, until there are none.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// One page's keys and values.
template <typename Role, typename Ring>
__device__ __forceinline__ void AttendPage(
    const AttentionKernelParams& params, const BlockItem& item, int page, Ring& ring,
    Accumulators<Role::kTiles, Role::kFragments>& accumulators) {
  using T = typename Role::Element;
  float scores[Role::kTiles][8][4];
  Role::Scores(params, item, page, DynamicShared<char>(), ring.NextKeys(page), scores);
  accumulators.Update(params.scale_log2, scores);
  uint32_t weights[Role::kTiles][4][4];
  TESSERA_UNROLL
  for (int i = 0; i < Role::kTiles; ++i) PackWeights<T>(scores[i], weights[i]);
  AccumulateValues<T, Role::kHeadDim>(weights, ring.NextValues(page), Role::first_pair(),
                                      Role::kPairStep, accumulators.out);
}

// All of an item's pages, split by split; the accumulators end up as the total of its splits.
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
  accumulators.Reset();
  for (int page = item.pages.begin; page < item.pages.end;) {
    do {
      AttendPage<Role>(params, item, page, ring, accumulators);
      ++page;
    } while (page % kPagesPerSplit != 0 && page < item.pages.end);
    accumulators.FinishSplit(params.scale_log2);
    using Total = SplitTotal<D, Role::kTiles, Role::kFragments>;
    if ((page - 1) / kPagesPerSplit != item.pages.begin / kPagesPerSplit) {
      Total(params).AddTo(accumulators.softmax, accumulators.out);
    }
    if (page >= item.pages.end) break;
    Total(params).Set(accumulators.softmax, accumulators.out);
    accumulators.Reset();
  }
  CopyAsyncWait<0>();
}

template <typename Role>
__device__ __forceinline__ void AttendItem(const AttentionKernelParams& params,
                                           const BlockItem& item) {
  Accumulators<Role::kTiles, Role::kFragments> accumulators;
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

// The block's next item.
template <typename T, int D>
__device__ __forceinline__ const BlockItem& TakeItem(const AttentionKernelParams& params) {
  TESSERA_SHARED(BlockItem, item);
  __syncthreads();  // all are done with the last item and its buffers
  if (threadIdx.x == 0) {
    item = ReadItem<T, D>(params, static_cast<int>(atomicAdd(params.counters, 1u)));
  }
  __syncthreads();
  return item;
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
  for (;;) {
    const BlockItem& item = TakeItem<T, D>(params);
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
