#pragma once

// Part of kernels/cpu/attention_kernel_impl.h: include that. Rows of a block against a tile of
// keys.
//
// Every score is one FMA chain over the head dimension and every output element one FMA chain over
// keys, ascending (docs/numerics.md). How many rows and vectors a register tile has, how rows are
// grouped, and which keys beyond a row's own are multiplied by its zero probabilities changes no
// bit.

#include "kernels/cpu/attention_kernel.h"
#include "kernels/cpu/kv_page.h"
#include "kernels/cpu/prefetcher.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/vector_math.h"

namespace tessera {
namespace {

constexpr int kTile = kAttentionTileTokens;
constexpr int kSplitTiles = kAttentionSplitTokens / kAttentionTileTokens;
constexpr int kTileVectors = kTile / 16;
constexpr int kMaxGroupRows = 6;  // rows that share each load of K or V
static_assert(kTile == kPageTokens, "a tile is read from one page");
static_assert(kKeyBlockTokens == 16, "a vector of scores is read from one block of K");

// Vectors of sums that fit in registers beside the operands.
#if defined(__AVX512F__)
constexpr int kMaxAccumulators = 24;
constexpr bool kManyRegisters = true;
#else
constexpr int kMaxAccumulators = 6;
constexpr bool kManyRegisters = false;
#endif
template <int kRows>
constexpr int kMaxVectors = kMaxAccumulators / kRows < 4 ? kMaxAccumulators / kRows : 4;

// Whether many rows have a tile of K and V converted to fp32 for all of them. AVX2 alone reads fp16
// each time: Zen 3 converts beside its multiply-adds, and a page takes half as much of the L1
// cache.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool kConvertsTiles = false;
#else
constexpr bool kConvertsTiles = true;
#endif
// As many, at least: from here on, groups of nearly equal size have 5 or 6.
constexpr int kMinRowsToConvert = 20;

using KeyPrefetcher = Prefetcher<kIntoL2>;

constexpr float kMinusInfinity = -__builtin_inff();

SIMD_INLINE int MinInt(int a, int b) { return a < b ? a : b; }
SIMD_INLINE int MaxInt(int a, int b) { return a > b ? a : b; }
SIMD_INLINE int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

SIMD_INLINE F32x16 LoadElements(const float* p) { return Load(p); }
SIMD_INLINE F32x16 LoadElements(const uint16_t* p) { return LoadHalf(p); }

// The first keys of a page, with their values at ValueOffset.
struct PageKeys {
  const uint16_t* k;
  int num_keys;
};

// An item's rows and keys, with what follows from them.
struct Block {
  const AttentionCall* call;
  int kv_length;
  int first_position;  // of the item's first row
  int group;           // query heads per kv head
  int num_packed_rows;
  int padded_dim;
  int part_stride;
  int64_t head_offset;  // bytes, of this kv head's K in a page
  int64_t end_key;      // that the item's last row sees
  int64_t end_tile;     // of the item's
  PageKeys next_item;   // of the first page of what the worker does next
  const int32_t* page_ids;
  float* q;       // [packed rows][head_dim], scaled
  float* part;    // [packed rows][part_stride]: the softmax of the split at hand
  float* total;   // same shape: of the splits before
  float* k_tile;  // [64 / 16][head_dim][16]
  float* v_tile;  // [64][padded_dim]
};

// A tile of keys for one group of rows; T is fp32 (converted) or fp16 (the page itself).
template <typename T>
struct Tile {
  const T* k;
  const T* v;
  PageKeys next;  // to be fetched into the cache meanwhile
  int64_t first_key;
};

// Keys [begin, end) of a tile.
struct KeyRange {
  int begin;
  int end;
};

SIMD_INLINE bool SeesNone(KeyRange keys) { return keys.begin >= keys.end; }

SIMD_INLINE KeyRange VisibleKeys(const Block& block, int packed_row, int64_t first_key) {
  const int64_t position = block.first_position + packed_row / block.group;
  const int window = block.call->window;
  const int64_t begin = window > 0 ? position - window + 1 : 0;
  const int64_t end = block.call->causal ? position + 1 : block.kv_length;
  const int64_t tile_begin = begin - first_key;
  const int64_t tile_end = end - first_key;
  return {static_cast<int>(tile_begin < 0       ? 0
                           : tile_begin > kTile ? kTile
                                                : tile_begin),
          static_cast<int>(tile_end < 0       ? 0
                           : tile_end > kTile ? kTile
                                              : tile_end)};
}

// K or V for kVectors vectors: vector j of row k is at data + k * row_stride + j * vector_stride.
template <typename T>
struct Operand {
  const T* data;
  int64_t row_stride;
  int64_t vector_stride;
};

// sums[r][j] += a[r][k] * b[k][j], k ascending.
template <int kRows, int kVectors, typename T>
SIMD_INLINE void MultiplyAccumulate(const float* a, int64_t a_stride, const Operand<T>& operand,
                                    int depth, KeyPrefetcher* prefetcher,
                                    F32x16 (&sums)[kRows][kVectors]) {
  const T* b = operand.data;
  KeyPrefetcher local_prefetcher = *prefetcher;
  for (int k = 0; k < depth; ++k, b += operand.row_stride) {
    if constexpr (sizeof(T) == 2) local_prefetcher.Step();
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const F32x16 row = LoadElements(b + j * operand.vector_stride);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        sums[r][j] = Fma(F32x16::Broadcast(a[r * a_stride + k]), row, sums[r][j]);
      }
      // Else GCC keeps the broadcasts for the next vector, which takes more registers than AVX2
      // has: it then keeps a sum in memory, and decode attention takes 1.5 times as long.
      if constexpr (!kManyRegisters) __asm__ volatile("" ::: "memory");
    }
  }
  *prefetcher = local_prefetcher;
}

// p[r][key] = q[r] . k[key] for the keys of kVectors vectors.
template <int kRows, int kVectors, typename T>
SIMD_INLINE void ScoreVectors(int head_dim, const float* q, const T* k, KeyPrefetcher* prefetcher,
                              float* p) {
  F32x16 sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sums[r][j] = F32x16::Zero();
  }
  const Operand<T> keys = {k, kKeyBlockTokens, int64_t{head_dim} * kKeyBlockTokens};
  MultiplyAccumulate<kRows, kVectors>(q, head_dim, keys, head_dim, prefetcher, sums);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) Store(p + r * kTile + 16 * j, sums[r][j]);
  }
}

// o[r] = o[r] * correction[r] + p[r] . v, for the dimensions of kVectors vectors.
template <int kRows, int kVectors, typename T>
SIMD_INLINE void OutputVectors(const Block& block, const float* p, const float* correction,
                               const T* v, int num_keys, KeyPrefetcher* prefetcher, float* o) {
  F32x16 sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    const F32x16 factor = F32x16::Broadcast(correction[r]);
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      sums[r][j] = Load(o + r * block.part_stride + 16 * j) * factor;
    }
  }
  const Operand<T> values = {v, block.padded_dim, 16};
  MultiplyAccumulate<kRows, kVectors>(p, kTile, values, num_keys, prefetcher, sums);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) Store(o + r * block.part_stride + 16 * j, sums[r][j]);
  }
}

// Calls step.template Run<n>(first) for NumRuns runs of n <= kMax vectors, of nearly equal length,
// that cover [begin, end).
template <int kMax>
SIMD_INLINE int NumRuns(int begin, int end) {
  return (end - begin + kMax - 1) / kMax;
}
template <int kMax, typename Step>
SIMD_INLINE void ForVectorRuns(int begin, int end, const Step& step) {
  const int num_runs = NumRuns<kMax>(begin, end);
  for (int run = 0; run < num_runs; ++run) {
    const int first = begin + (end - begin) * run / num_runs;
    const int length = begin + (end - begin) * (run + 1) / num_runs - first;
    if (length == 1) step.template Run<1>(first);
    if constexpr (kMax >= 2) {
      if (length == 2) step.template Run<2>(first);
    }
    if constexpr (kMax >= 3) {
      if (length == 3) step.template Run<3>(first);
    }
    if constexpr (kMax >= 4) {
      if (length == 4) step.template Run<4>(first);
    }
  }
}

template <int kRows, typename T>
struct ScoreStep {
  const Block& block;
  const Tile<T>& tile;
  const float* q;
  KeyPrefetcher* prefetcher;
  float* p;
  template <int kVectors>
  SIMD_INLINE void Run(int first) const {
    const int head_dim = block.call->head_dim;
    ScoreVectors<kRows, kVectors>(head_dim, q, tile.k + KeyOffset(head_dim, 16 * first, 0),
                                  prefetcher, p + 16 * first);
  }
};

template <int kRows, typename T>
struct OutputStep {
  const Block& block;
  const Tile<T>& tile;
  const float* p;
  const float* correction;
  KeyRange keys;
  KeyPrefetcher* prefetcher;
  float* o;
  template <int kVectors>
  SIMD_INLINE void Run(int first) const {
    const T* v = tile.v + int64_t{keys.begin} * block.padded_dim + 16 * first;
    OutputVectors<kRows, kVectors>(block, p + keys.begin, correction, v, keys.end - keys.begin,
                                   prefetcher, o + 16 * first);
  }
};

// Keys begin..end as lanes of vector j of the tile.
SIMD_INLINE Mask16 LaneMask(KeyRange keys, int j) {
  const int end = MinInt(MaxInt(keys.end - 16 * j, 0), 16);
  const int begin = MinInt(MaxInt(keys.begin - 16 * j, 0), 16);
  return And(FirstLanes(end), Not(FirstLanes(begin)));
}

// The vectors [first, last) of a group's scores that hold a key some row sees.
struct VectorRange {
  int first;
  int last;
};

SIMD_INLINE void ClearScores(VectorRange vectors, float* p) {
  for (int j = vectors.first; j < vectors.last; ++j) Store(p + 16 * j, F32x16::Zero());
}

// Caps and masks one row's scores p, and returns the largest of them and `maximum`.
// kWholeTile: all 64 keys are visible.
template <bool kWholeTile>
SIMD_INLINE float LimitScores(float cap_scale, KeyRange keys, VectorRange vectors, float maximum,
                              float* p) {
  F32x16 best = F32x16::Broadcast(maximum);
#pragma GCC unroll 4
  for (int j = vectors.first; j < vectors.last; ++j) {
    F32x16 scores = Load(p + 16 * j);
    if (cap_scale != 0.0f) scores = F32x16::Broadcast(cap_scale) * Tanh(scores);
    if constexpr (!kWholeTile) {
      scores = Select(LaneMask(keys, j), scores, F32x16::Broadcast(kMinusInfinity));
    }
    if (!kWholeTile || cap_scale != 0.0f) Store(p + 16 * j, scores);
    best = Max(best, scores);
  }
  return ReduceMax(best);
}

// p = 2^(p - maximum); returns the sum by lanes.
SIMD_INLINE F32x16 Probabilities(VectorRange vectors, float maximum, float* p) {
  F32x16 sum = F32x16::Zero();
#pragma GCC unroll 4
  for (int j = vectors.first; j < vectors.last; ++j) {
    const F32x16 e = Exp2(Load(p + 16 * j) - F32x16::Broadcast(maximum));
    Store(p + 16 * j, e);
    sum = sum + e;
    // Else GCC computes all vectors at once, in more registers than AVX2 has.
    if constexpr (!kManyRegisters) __asm__ volatile("" ::: "memory");
  }
  return sum;
}

// Turns the scores p of a group's rows into probabilities relative to each row's running maximum,
// adds them to its sum, and writes the factor that its earlier o and sum shrink by. Each stage goes
// over all rows, for one row is a long chain of operations that waits for itself.
template <int kRows, bool kWholeTile>
SIMD_INLINE void SoftmaxGroup(const Block& block, const KeyRange (&keys)[kRows],
                              VectorRange vectors, float* p, float* part,
                              float (&corrections)[16]) {
  if constexpr (kWholeTile) vectors = {0, kTileVectors};
  const int maximum = block.padded_dim + 16;
  alignas(64) float before[16] = {};
  alignas(64) float after[16] = {};
  for (int r = 0; r < kRows; ++r) {
    before[r] = after[r] = part[r * block.part_stride + maximum];
    if (SeesNone(keys[r])) continue;
    after[r] =
        LimitScores<kWholeTile>(block.call->cap_scale, keys[r], vectors, before[r], p + r * kTile);
  }
  const F32x16 shrink = Exp2(Load(before) - Load(after));
  Store(corrections, Select(Equal(Load(before), Load(after)), F32x16::Broadcast(1.0f), shrink));
  for (int r = 0; r < kRows; ++r) {
    if (SeesNone(keys[r])) {
      ClearScores(vectors, p + r * kTile);
      corrections[r] = 1.0f;
      continue;
    }
    const F32x16 sum = Probabilities(vectors, after[r], p + r * kTile);
    float* sum_lanes = part + r * block.part_stride + block.padded_dim;
    Store(sum_lanes, Fma(Load(sum_lanes), F32x16::Broadcast(corrections[r]), sum));
    part[r * block.part_stride + maximum] = after[r];
  }
}

// Rows [first_row, first_row + kRows) of the block against one tile.
template <int kRows, typename T>
[[gnu::noinline]] void AttendGroup(const Block& block, int first_row, const Tile<T>& tile) {
  KeyRange row_keys[kRows];
  for (int r = 0; r < kRows; ++r) row_keys[r] = VisibleKeys(block, first_row + r, tile.first_key);
  // Both ends ascend with the row.
  const KeyRange keys = {row_keys[0].begin, row_keys[kRows - 1].end};
  const bool all_whole = row_keys[kRows - 1].begin == 0 && row_keys[0].end == kTile;
  if (SeesNone(keys)) return;
  const VectorRange vectors = {keys.begin / 16, (keys.end + 15) / 16};

  alignas(64) float p[kRows * kTile];
  alignas(64) float corrections[16];
  float* part = block.part + int64_t{first_row} * block.part_stride;
  const int head_dim = block.call->head_dim;
  const float* q = block.q + int64_t{first_row} * head_dim;
  constexpr int kMax = kMaxVectors<kRows>;
  const int num_next_keys = (tile.next.num_keys + kKeyBlockTokens - 1) & -kKeyBlockTokens;
  KeyPrefetcher prefetch_k(tile.next.k, num_next_keys * head_dim * int64_t{sizeof(uint16_t)},
                           int64_t{NumRuns<kMax>(vectors.first, vectors.last)} * head_dim);
  ForVectorRuns<kMax>(vectors.first, vectors.last,
                      ScoreStep<kRows, T>{block, tile, q, &prefetch_k, p});
  if (all_whole) {
    SoftmaxGroup<kRows, true>(block, row_keys, vectors, p, part, corrections);
  } else {
    SoftmaxGroup<kRows, false>(block, row_keys, vectors, p, part, corrections);
  }
  const int num_vectors = block.padded_dim / 16;
  KeyPrefetcher prefetch_v(tile.next.k + ValueOffset(head_dim),
                           tile.next.num_keys * block.padded_dim * int64_t{sizeof(uint16_t)},
                           int64_t{NumRuns<kMax>(0, num_vectors)} * (keys.end - keys.begin));
  ForVectorRuns<kMax>(0, num_vectors,
                      OutputStep<kRows, T>{block, tile, p, corrections, keys, &prefetch_v, part});
}

template <typename T>
SIMD_INLINE void AttendGroupOf(int num_rows, const Block& block, int first, const Tile<T>& tile) {
  if constexpr (sizeof(T) == 2) {
    switch (num_rows) {
      case 1:
        return AttendGroup<1, T>(block, first, tile);
      case 2:
        return AttendGroup<2, T>(block, first, tile);
      case 3:
        return AttendGroup<3, T>(block, first, tile);
      case 4:
        return AttendGroup<4, T>(block, first, tile);
      default:
        break;
    }
  }
  if (num_rows == 5) return AttendGroup<5, T>(block, first, tile);
  AttendGroup<6, T>(block, first, tile);
}

// All rows of the block, in groups of nearly equal size.
template <typename T>
SIMD_INLINE void AttendTile(const Block& block, Tile<T> tile) {
  const int num_groups = (block.num_packed_rows + kMaxGroupRows - 1) / kMaxGroupRows;
  for (int g = 0; g < num_groups; ++g) {
    const int first = block.num_packed_rows * g / num_groups;
    const int end = block.num_packed_rows * (g + 1) / num_groups;
    AttendGroupOf(end - first, block, first, tile);
    tile.next.num_keys = 0;  // the first group has fetched them
  }
}

}  // namespace
}  // namespace tessera
