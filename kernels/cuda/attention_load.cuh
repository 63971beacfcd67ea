#pragma once

#include "kernels/cuda/attention_tile.cuh"

// Queries, keys and values on their way to shared memory.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Begins to copy an item's queries to a tile of kRows rows; rows past its last become zero.
template <typename T, int D, int kRows>
__device__ __forceinline__ void LoadQueries(const AttentionKernelParams& params,
                                            const AttentionRows& rows, char* queries) {
  constexpr int kChunks = D / 8;
  TESSERA_NO_UNROLL
  for (int i = FreshThread(); i < kRows * kChunks; i += kAttentionThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const bool valid = row < rows.num_rows;
    const int packed = rows.first_row + (valid ? row : 0);
    const int position = packed / params.group;
    const int head = rows.kv_head * params.group + packed - position * params.group;
    const T* query = static_cast<const T*>(params.q) +
                     (rows.sequence.query_start + position) * params.q_stride + head * D;
    CopyAsync16(queries + ChunkOffset<D, kRows>(row, chunk), query + chunk * 8, valid);
  }
}

// The keys and values of an item's pages, one after another (K, V, K, V ...), through kStages tiles
// of shared memory. All of the block's threads go through it together, page by page. A tile may be
// read until the next call; kStages - 1 more are under way meanwhile.
template <typename T, int D, int kStages>
class KeyValueRing {
 public:
  __device__ __forceinline__ KeyValueRing(const AttentionKernelParams& params,
                                          const BlockItem& item, char* shared)
      : params_(params), item_(item), shared_(shared), page_id_(PageId(item.pages.begin)) {}

  // Begins to fill the ring; what the thread has copied so far arrives with the first tile.
  __device__ __forceinline__ void Start() {
    TESSERA_UNROLL
    for (int i = 0; i < kStages - 1; ++i) Load(i % 2 == 1, item_.pages.begin + i / 2, i);
  }

  __device__ __forceinline__ const char* NextKeys(int page) { return Next(kStages - 1, page); }
  __device__ __forceinline__ const char* NextValues(int page) { return Next(kStages, page); }

 private:
  static constexpr int kTileBytes = AttentionTile<D>::kKeyTileBytes;

  __device__ __forceinline__ int PageId(int page) const {
    return page < item_.pages.end ? item_.page_ids[page] : 0;
  }

  // Begins to load the tile num_ahead after the page's keys, into the place of the tile before the
  // one that it returns.
  __device__ __forceinline__ const char* Next(int num_ahead, int page) {
    CopyAsyncWait<kStages - 2>();
    __syncthreads();
    Load(num_ahead % 2 == 1, page + num_ahead / 2, stage_ == 0 ? kStages - 1 : stage_ - 1);
    const char* tile = shared_ + stage_ * kTileBytes;
    stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
    return tile;
  }

  __device__ __forceinline__ void Load(bool values, int page, int stage) {
    if (page < item_.pages.end) {
      const int64_t key_elements = params_.num_kv_heads * (kPageTokens * D);
      const int64_t offset = (2 * int64_t{page_id_} + (values ? 1 : 0)) * key_elements;
      LoadTile(static_cast<const T*>(item_.head) + offset,
               item_.rows.sequence.kv_length - page * kPageTokens, shared_ + stage * kTileBytes);
      if (values) page_id_ = PageId(page + 1);
    }
    CopyAsyncCommit();
  }

  // Slots past the sequence's end, which may hold anything, arrive as zeros: 0 * NaN is NaN.
  __device__ __forceinline__ void LoadTile(const T* tile, int num_tokens, char* shared) {
    if (num_tokens >= kPageTokens) {
      LoadSlots<true>(tile, num_tokens, shared);
    } else {
      LoadSlots<false>(tile, num_tokens, shared);
    }
  }

  template <bool kAllSlots>
  __device__ __forceinline__ void LoadSlots(const T* tile, int num_tokens, char* shared) {
    constexpr int kChunks = D / 8;
    const int thread = FreshThread();
    TESSERA_UNROLL
    for (int i = 0; i < kPageTokens * kChunks / kAttentionThreads; ++i) {
      const int index = thread + i * kAttentionThreads;
      const int slot = index / kChunks;
      CopyAsync16(shared + ChunkOffset<D, kPageTokens>(slot, index % kChunks), tile + index * 8,
                  kAllSlots || slot < num_tokens);
    }
  }

  const AttentionKernelParams& params_;
  const BlockItem& item_;
  char* const shared_;
  int page_id_;    // of the page to be loaded next
  int stage_ = 0;  // of the tile to be returned next
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
