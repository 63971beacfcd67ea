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
  accumulators.Reset();
  if (item.pages.begin >= item.pages.end) return;
  char* shared = DynamicShared<char>();
  LoadQueries<T, D, Role::kRows>(params, item.rows, shared);
  KeyValueRing<T, D, Role::kStages> ring(params, item, shared + Role::kRingOffset);
  ring.Start();
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
__device__ inline void ReadItem(const AttentionKernelParams& params, int unit, BlockItem& result) {
  result.is_first = false;
  result.tile_rows = 0;
  if (unit >= params.plan->num_items * params.num_kv_heads) return;
  const AttentionItem& item = params.plan->Items()[unit / params.num_kv_heads];
  result.rows = {item.sequence, unit % params.num_kv_heads, item.first_row, item.num_rows};
  result.pages = VisiblePages(params, result.rows, item.split);
  result.page_ids = params.page_ids + item.sequence.page_start;
  result.head = static_cast<const T*>(params.pages) + result.rows.kv_head * (kPageTokens * D);
  result.tile_rows = item.tile_rows;
  result.split = item.split;
  result.partial_row = item.partial_row;
}

// The whole block; others see it after the next barrier.
__device__ __forceinline__ void FillPositions(int group, BlockItem& item) {
  static_assert(kMaxTileRows == kAttentionThreads);
  const int row = FreshThread();
  item.positions[row] = item.rows.Position(min(row, item.rows.num_rows - 1), group);
}

// Replaces the block's item by its next. The first is the block's own number, which needs no
// waiting.
template <typename T, int D>
__device__ __forceinline__ void TakeItem(const AttentionKernelParams& params, BlockItem& item) {
  __syncthreads();  // all are done with the last item and its buffers
  if (threadIdx.x == 0) {
    const uint32_t unit =
        item.is_first ? blockIdx.x : gridDim.x + atomicAdd(&params.counters[0], 1u);
    ReadItem<T, D>(params, static_cast<int>(unit), item);
  }
  __syncthreads();
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
  TESSERA_SHARED(BlockItem, item);
  if (threadIdx.x == 0) item.is_first = true;
  for (;;) {
    TakeItem<T, D>(params, item);
    if (item.tile_rows == 0) break;
    FillPositions(params.group, item);
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
