#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/world.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// At multiples of this position every row's softmax starts anew, and the parts merge in order: part
// of what a row's bits are (docs/numerics.md), whoever computes the parts.
inline constexpr int kAttentionSplitTokens = 1024;

// Where a sequence stands in the step: what a block would else look up first.
struct AttentionSequence {
  int32_t index;
  int32_t query_start;     // the step's row that is its first
  int32_t first_position;  // and that row's position
  int32_t kv_length;
  int32_t page_start;  // of its pages among the step's page ids
};

// Packed rows: query heads that share a KV head are rows of one matrix. Packed row i of a sequence
// and KV head h is query head h * group + i % group of the sequence's row i / group in the step.
//
// The work of one thread block at a time, for each KV head once.
struct AttentionItem {
  AttentionSequence sequence;
  int32_t first_row;    // packed row of the sequence
  int16_t num_rows;     // packed rows, 1 to tile_rows
  int16_t tile_rows;    // 16, 64 or 128; changes no bit of a row
  int32_t split;        // the split of keys to attend to, or kAllSplits
  int32_t partial_row;  // of its first row's result, if that is to be combined
  int32_t cost;         // estimate of its duration; the device does not read it

  static constexpr int32_t kAllSplits = -1;  // one after another, merged by the block itself
};

// Rows whose splits are items of their own, to be merged when all items are done. Split s of the
// i-th row has its partial result at partial_row + s * split_stride + i.
struct AttentionCombine {
  AttentionSequence sequence;
  int32_t first_row;
  int32_t num_rows;  // at most kAttentionCombineRows
  int32_t num_splits;
  int32_t partial_row;
  int32_t split_stride;
};

inline constexpr int kAttentionCombineRows = 16;

// A plan in device memory: this and, items_offset bytes from here, its items, then its combines.
struct AttentionPlanHeader {
  int32_t num_items;
  int32_t num_combines;
  int32_t num_partial_rows;  // of each KV head
  int32_t causal;
  int32_t items_offset;

  __host__ __device__ const AttentionItem* Items() const {
    return reinterpret_cast<const AttentionItem*>(reinterpret_cast<const char*>(this) +
                                                  items_offset);
  }
  __host__ __device__ const AttentionCombine* Combines() const {
    return reinterpret_cast<const AttentionCombine*>(Items() + num_items);
  }
};

struct AttentionPlanOptions {
  int group = 1;  // query heads that share a KV head
  int num_kv_heads = 1;
  int max_tile_rows = 64;    // AttentionMaxTileRows of the head dimension
  int num_blocks = 1;        // that run at once: AttentionNumBlocks
  int max_partial_rows = 0;  // of each KV head, that the workspace holds
  bool causal = true;

  bool operator==(const AttentionPlanOptions&) const = default;
};

// How one step's attention is divided among thread blocks: made on the host once a step, for all
// layers of the same options. What it decides changes no bit of any row, only the time. Reuses its
// memory; one thread at a time.
class AttentionPlan {
 public:
  void Build(const SequenceBatch& batch, const AttentionPlanOptions& options);

  // Longest first.
  const std::vector<AttentionItem>& items() const { return items_; }
  const std::vector<AttentionCombine>& combines() const { return combines_; }
  const AttentionPlanHeader& header() const { return header_; }

  // Of items and combines.
  size_t items_bytes() const;
  // Writes what is to be copied to the device as it is: an AttentionPlanHeader to `header`, the
  // rest items_offset bytes behind.
  void Pack(size_t items_offset, void* header) const;

 private:
  // Up to tile_rows neighbouring packed rows of a sequence and all keys that any of them sees.
  struct Tile {
    AttentionSequence sequence;
    int32_t first_row;
    int num_rows;
    int tile_rows;
    int num_keys;
  };

  void AddTiles(const AttentionSequence& sequence, int num_positions);
  bool WantsParallelSplits(const Tile& tile, int64_t fair_cost) const;
  void AddWhole(const Tile& tile);
  void AddSplits(const Tile& tile);
  void AddCombines(const Tile& tile, int32_t partial_row, int num_splits);

  AttentionPlanOptions options_;
  AttentionPlanHeader header_{};
  std::vector<Tile> tiles_;
  std::vector<AttentionItem> items_;
  std::vector<AttentionCombine> combines_;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
