#pragma once

// The attention kernel, compiled once for each instruction set
// (attention_{portable,avx2,avx512}.cc): an item's tiles and splits in order, the merging of
// splits, and the output.

#include "kernels/cpu/attention_tile_impl.h"

namespace tessera {
namespace {

// The keys of tile `tile_index` that some row sees.
SIMD_INLINE PageKeys KeysOfTile(const Block& block, int64_t tile_index) {
  const std::byte* page = block.call->pages + block.page_ids[tile_index] * block.call->page_bytes;
  const int64_t num_keys = block.end_key - tile_index * kTile;
  return {reinterpret_cast<const uint16_t*>(page + block.head_offset),
          num_keys < kTile ? static_cast<int>(num_keys) : kTile};
}

SIMD_INLINE void ConvertHalfs(const uint16_t* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 16) Store(out + i, LoadHalf(in + i));
}

SIMD_INLINE void AttendConverted(const Block& block, int64_t tile_index) {
  const int64_t first_key = tile_index * kTile;
  const int head_dim = block.call->head_dim;
  const uint16_t* k = KeysOfTile(block, tile_index).k;
  const KeyRange last_keys = VisibleKeys(block, block.num_packed_rows - 1, first_key);
  ConvertHalfs(k, KeyOffset(head_dim, (last_keys.end + 15) / 16 * 16, 0), block.k_tile);
  ConvertHalfs(k + ValueOffset(head_dim), int64_t{last_keys.end} * block.padded_dim, block.v_tile);
  AttendTile(block, Tile<float>{block.k_tile, block.v_tile, {k, 0}, first_key});
}

SIMD_INLINE void AttendPage(const Block& block, int64_t tile_index) {
  if constexpr (kConvertsTiles) {
    if (block.num_packed_rows >= kMinRowsToConvert) return AttendConverted(block, tile_index);
  }
  const uint16_t* k = KeysOfTile(block, tile_index).k;
  const uint16_t* v = k + ValueOffset(block.call->head_dim);
  const bool is_last = tile_index + 1 == block.end_tile;
  const PageKeys next = is_last ? block.next_item : KeysOfTile(block, tile_index + 1);
  AttendTile(block, Tile<uint16_t>{k, v, next, tile_index * kTile});
}

SIMD_INLINE void ClearParts(const Block& block, float* parts) {
  for (int r = 0; r < block.num_packed_rows; ++r) {
    float* part = parts + int64_t{r} * block.part_stride;
    for (int i = 0; i < block.padded_dim + 16; i += 16) Store(part + i, F32x16::Zero());
    part[block.padded_dim + 16] = kMinusInfinity;
  }
}

// The tiles of `split` that some row sees.
SIMD_INLINE void AttendSplit(const Block& block, int64_t split) {
  const int window = block.call->window;
  const int64_t first_key = window > 0 ? block.first_position - window + 1 : 0;
  int64_t tile = split * kSplitTiles;
  int64_t end_tile = tile + kSplitTiles;
  if (tile * kTile < first_key) tile = first_key / kTile;
  if (end_tile > block.end_tile) end_tile = block.end_tile;
  for (; tile < end_tile; ++tile) AttendPage(block, tile);
}

// total = the softmax over total's keys, then part's. An empty side changes no bit of the other.
SIMD_INLINE void MergeRow(int padded_dim, const float* part, float* total) {
  const int maximum = padded_dim + 16;
  const bool part_is_empty = part[maximum] == kMinusInfinity && part[padded_dim] == 0.0f;
  const bool total_is_empty = total[maximum] == kMinusInfinity && total[padded_dim] == 0.0f;
  if (part_is_empty) return;
  float part_factor = 1.0f;
  float total_factor = 0.0f;
  float new_maximum = part[maximum];
  if (!total_is_empty) {
    if (!(total[maximum] <= new_maximum)) new_maximum = total[maximum];
    total_factor = Exp2(total[maximum] - new_maximum);
    part_factor = Exp2(part[maximum] - new_maximum);
  }
  for (int i = 0; i < maximum; i += 16) {
    const F32x16 shrunk = Load(total + i) * F32x16::Broadcast(total_factor);
    Store(total + i, Fma(Load(part + i), F32x16::Broadcast(part_factor), shrunk));
  }
  total[maximum] = new_maximum;
}

SIMD_INLINE void MergeRows(const Block& block, const float* part) {
  for (int r = 0; r < block.num_packed_rows; ++r) {
    const int64_t offset = int64_t{r} * block.part_stride;
    MergeRow(block.padded_dim, part + offset, block.total + offset);
  }
}

// out = o / sum. Adding 0 makes the sign of a zero independent of how many invisible keys, times
// probability 0, a neighbour's keys added to the chain.
SIMD_INLINE void WriteRow(const Block& block, const AttentionItem& item, int packed_row) {
  const AttentionCall& call = *block.call;
  const float* total = block.total + int64_t{packed_row} * block.part_stride;
  const float sum = ReduceAdd(Load(total + block.padded_dim));
  const F32x16 inverse = F32x16::Broadcast(sum == 0.0f ? 0.0f : 1.0f / sum);
  const int64_t row = call.query_starts[item.sequence] + item.first_row + packed_row / block.group;
  const int64_t head = int64_t{item.kv_head} * block.group + packed_row % block.group;
  float* out = call.out + (row * call.num_heads + head) * call.head_dim;
  for (int d = 0; d < call.head_dim; d += 16) {
    const F32x16 value = Load(total + d) * inverse + F32x16::Zero();
    StoreFirst(out + d, value, MinInt(16, call.head_dim - d));
  }
}

SIMD_INLINE Block MakeBlock(const AttentionCall& call, const AttentionItem& item, float* scratch) {
  Block block;
  const int num_new_rows = call.query_starts[item.sequence + 1] - call.query_starts[item.sequence];
  block.call = &call;
  block.kv_length = call.kv_lengths[item.sequence];
  block.first_position = block.kv_length - num_new_rows + item.first_row;
  block.group = call.num_heads / call.num_kv_heads;
  block.num_packed_rows = item.num_rows * block.group;
  block.padded_dim = PaddedHeadDim(call.head_dim);
  block.part_stride = AttentionPartStride(block.padded_dim);
  block.head_offset = KvHeadStride(call.head_dim) * item.kv_head * int64_t{sizeof(uint16_t)};
  block.page_ids = call.page_ids + call.page_starts[item.sequence];
  block.end_key = call.causal ? block.first_position + item.num_rows : block.kv_length;
  block.end_tile = CeilDiv(block.end_key, kTile);
  if (block.end_tile > item.end_split * int64_t{kSplitTiles}) {
    block.end_tile = item.end_split * int64_t{kSplitTiles};
  }
  block.next_item = {reinterpret_cast<const uint16_t*>(call.pages), 0};
  block.k_tile = scratch;
  block.v_tile = block.k_tile + int64_t{kTile} * call.head_dim;
  block.part = block.v_tile + int64_t{kTile} * block.padded_dim;
  block.total = block.part + int64_t{block.num_packed_rows} * block.part_stride;
  block.q = block.total + int64_t{block.num_packed_rows} * block.part_stride;
  return block;
}

SIMD_INLINE void PackQueries(const Block& block, const AttentionItem& item) {
  const AttentionCall& call = *block.call;
  const int64_t row0 = call.query_starts[item.sequence] + item.first_row;
  const F32x16 scale = F32x16::Broadcast(call.q_scale);
  const int64_t group_dim = int64_t{block.group} * call.head_dim;  // heads of a group lie together
  for (int r = 0; r < item.num_rows; ++r) {
    const float* q = call.q + (row0 + r) * call.q_stride + item.kv_head * group_dim;
    float* packed = block.q + r * group_dim;
    for (int64_t i = 0; i < group_dim; i += 16) {
      const int n = group_dim - i < 16 ? static_cast<int>(group_dim - i) : 16;
      StoreFirst(packed + i, LoadFirst(q + i, n) * scale, n);
    }
  }
}

void RunItem(const AttentionCall& call, const AttentionItem& item, const AttentionItem* next,
             float* parts, float* scratch) {
  Block block = MakeBlock(call, item, scratch);
  if (next != nullptr) {
    const Block next_block = MakeBlock(call, *next, scratch);
    block.next_item = KeysOfTile(next_block, next->first_split * int64_t{kSplitTiles});
  }
  PackQueries(block, item);
  const int64_t split_stride = int64_t{block.num_packed_rows} * block.part_stride;
  if (item.parts >= 0) {
    for (int split = item.first_split; split < item.end_split; ++split) {
      block.part = parts + item.parts + (split - item.block_first_split) * split_stride;
      ClearParts(block, block.part);
      AttendSplit(block, split);
    }
    return;
  }
  float* const later_part = block.part;
  block.part = block.total;  // the first split's part, which merging into nothing would not change
  for (int split = item.first_split; split < item.end_split; ++split) {
    ClearParts(block, block.part);
    AttendSplit(block, split);
    if (split > item.first_split) MergeRows(block, block.part);
    block.part = later_part;
  }
  for (int r = 0; r < block.num_packed_rows; ++r) WriteRow(block, item, r);
}

void MergeItem(const AttentionCall& call, const AttentionItem& item, const float* parts,
               float* scratch) {
  const Block block = MakeBlock(call, item, scratch);
  const int64_t split_stride = int64_t{block.num_packed_rows} * block.part_stride;
  ClearParts(block, block.total);
  for (int split = item.first_split; split < item.end_split; ++split) {
    MergeRows(block, parts + item.parts + (split - item.block_first_split) * split_stride);
  }
  for (int r = 0; r < block.num_packed_rows; ++r) WriteRow(block, item, r);
}

constexpr AttentionKernel kKernel = {RunItem, MergeItem};

}  // namespace
}  // namespace tessera
