#pragma once

#include <cstddef>
#include <cstdint>

// Between CpuAttention, which plans, and the files compiled for one instruction set each, which
// compute. Plain data only.

namespace tessera {

// Keys are visited in tiles of 64, aligned to absolute position 0. Every 256 keys the softmax
// starts anew, and its parts merge in index order: so that threads may share a long sequence's
// keys. Both are part of the numerics: changing them changes bits.
inline constexpr int kAttentionTileTokens = 64;
inline constexpr int kAttentionSplitTokens = 256;

// What the items of one call share. Arrays as in SequenceBatch and AttentionParams.
struct AttentionCall {
  const float* q;
  int64_t q_stride;
  float* out;
  const std::byte* pages;
  int64_t page_bytes;
  const int32_t* query_starts;
  const int32_t* kv_lengths;
  const int32_t* page_starts;
  const int32_t* page_ids;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int window;  // 0: off
  bool causal;
  // A score in units of log2 is (q * q_scale) . k, or with a cap cap_scale * tanh((q * q_scale) .
  // k).
  float q_scale;
  float cap_scale;  // 0: no cap
};

// The heads of one kv head at positions [first_row, first_row + num_rows) of a sequence's new rows,
// over its key splits [first_split, end_split). Packed row r is head r % group of position r /
// group.
struct AttentionItem {
  int32_t sequence;
  int32_t kv_head;
  int32_t first_row;
  int32_t num_rows;
  int32_t first_split;
  int32_t end_split;
  // Where the parts of all the block's splits start, [split - block's first][packed
  // row][PartStride], in floats; -1: this item has all splits and writes `out` itself.
  int64_t parts;
  int32_t block_first_split;
};

inline constexpr int kAttentionMaxPackedRows =
    96;  // of an item, unless one position alone has more

// Internal linkage, since files with their own instruction flags use these (kernels/cpu/simd.h).
namespace {

// One row's softmax over a range of keys: o[padded head_dim], then the sum's 16 lanes, then the
// maximum and padding.
[[gnu::always_inline]] constexpr int AttentionPartStride(int padded_head_dim) {
  return padded_head_dim + 32;
}

// Floats of scratch that one worker needs.
[[gnu::always_inline]] constexpr int64_t AttentionScratchFloats(int head_dim, int padded_head_dim,
                                                                int max_packed_rows) {
  return int64_t{max_packed_rows} * (head_dim + 2 * AttentionPartStride(padded_head_dim)) +
         int64_t{kAttentionTileTokens} * (head_dim + padded_head_dim) + 16;
}

}  // namespace

struct AttentionKernel {
  // scratch: AttentionScratchFloats, 64-byte aligned. next: what this worker runs next, or null.
  void (*run)(const AttentionCall& call, const AttentionItem& item, const AttentionItem* next,
              float* parts, float* scratch);
  // Merges the parts of block splits [item.first_split, item.end_split) into `out`.
  void (*merge)(const AttentionCall& call, const AttentionItem& item, const float* parts,
                float* scratch);
};

extern const AttentionKernel kAttentionPortable;
extern const AttentionKernel kAttentionAvx2;
extern const AttentionKernel kAttentionAvx512;

}  // namespace tessera
