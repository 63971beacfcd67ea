#include "kernels/cuda/attention_plan.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

int DivideUp(int a, int b) { return (a + b - 1) / b; }

int NumSplits(int num_keys) { return std::max(1, DivideUp(num_keys, kAttentionSplitTokens)); }

// Of a tile over num_keys keys, in units of a quarter of a 128-row tile's time for 64 keys. A low
// tile waits for its keys' bytes, which cost as much as half of what a high one computes with them.
int Cost(int tile_rows, int num_keys) {
  const int per_page = tile_rows == 16 ? 2 : tile_rows == 64 ? 3 : 4;
  constexpr int kStartAndEnd = 4;
  return kStartAndEnd + per_page * DivideUp(num_keys, kPageTokens);
}

int TileRows(int num_rows, int max_tile_rows) {
  if (num_rows <= 16) return 16;
  return num_rows <= 64 ? 64 : max_tile_rows;
}

AttentionSequence SequenceOf(const SequenceBatch& batch, int index) {
  const auto i = static_cast<size_t>(index);
  const int num_positions = batch.query_starts[i + 1] - batch.query_starts[i];
  return {.index = index,
          .query_start = batch.query_starts[i],
          .first_position = batch.kv_lengths[i] - num_positions,
          .kv_length = batch.kv_lengths[i],
          .page_start = batch.page_starts[i]};
}

}  // namespace

void AttentionPlan::Build(const SequenceBatch& batch, const AttentionPlanOptions& options) {
  CHECK(options.max_tile_rows == 64 || options.max_tile_rows == 128);
  options_ = options;
  header_ = {};
  header_.causal = options.causal ? 1 : 0;
  tiles_.clear();
  items_.clear();
  combines_.clear();
  for (int i = 0; i < batch.num_sequences(); ++i) {
    const AttentionSequence sequence = SequenceOf(batch, i);
    const auto index = static_cast<size_t>(i);
    AddTiles(sequence, batch.query_starts[index + 1] - sequence.query_start);
  }
  int64_t total_cost = 0;
  for (const Tile& tile : tiles_) total_cost += Cost(tile.tile_rows, tile.num_keys);
  const int64_t fair_cost = total_cost * options.num_kv_heads / options.num_blocks;
  for (const Tile& tile : tiles_) {
    if (WantsParallelSplits(tile, fair_cost)) {
      AddSplits(tile);
    } else {
      AddWhole(tile);
    }
  }
  std::sort(items_.begin(), items_.end(), [](const AttentionItem& a, const AttentionItem& b) {
    if (a.cost != b.cost) return a.cost > b.cost;
    if (a.sequence.index != b.sequence.index) return a.sequence.index < b.sequence.index;
    return a.first_row != b.first_row ? a.first_row < b.first_row : a.split < b.split;
  });
  header_.num_items = static_cast<int32_t>(items_.size());
  header_.num_combines = static_cast<int32_t>(combines_.size());
}

void AttentionPlan::AddTiles(const AttentionSequence& sequence, int num_positions) {
  const int num_rows = num_positions * options_.group;
  for (int row = 0; row < num_rows;) {
    const int tile_rows = TileRows(num_rows - row, options_.max_tile_rows);
    const int end = std::min(num_rows, row + tile_rows);
    const int last_position = sequence.first_position + (end - 1) / options_.group;
    const int num_keys = options_.causal ? std::max(0, last_position + 1) : sequence.kv_length;
    tiles_.push_back({sequence, row, end - row, tile_rows, num_keys});
    row = end;
  }
}

// A low tile's splits are few rows each, so that their results cost little memory; a high one's are
// worth it where the tile would take longer than a block's fair share of the step.
bool AttentionPlan::WantsParallelSplits(const Tile& tile, int64_t fair_cost) const {
  const int num_splits = NumSplits(tile.num_keys);
  if (num_splits == 1) return false;
  const int64_t partial_rows =
      int64_t{header_.num_partial_rows} + int64_t{num_splits} * tile.num_rows;
  if (partial_rows > options_.max_partial_rows) return false;
  return tile.tile_rows == 16 || Cost(tile.tile_rows, tile.num_keys) > fair_cost;
}

void AttentionPlan::AddWhole(const Tile& tile) {
  items_.push_back({.sequence = tile.sequence,
                    .first_row = tile.first_row,
                    .num_rows = static_cast<int16_t>(tile.num_rows),
                    .tile_rows = static_cast<int16_t>(tile.tile_rows),
                    .split = AttentionItem::kAllSplits,
                    .partial_row = 0,
                    .cost = Cost(tile.tile_rows, tile.num_keys)});
}

void AttentionPlan::AddSplits(const Tile& tile) {
  const int num_splits = NumSplits(tile.num_keys);
  AddCombines(tile, header_.num_partial_rows, num_splits);
  for (int split = 0; split < num_splits; ++split) {
    const int num_keys =
        std::min(kAttentionSplitTokens, tile.num_keys - split * kAttentionSplitTokens);
    items_.push_back({.sequence = tile.sequence,
                      .first_row = tile.first_row,
                      .num_rows = static_cast<int16_t>(tile.num_rows),
                      .tile_rows = static_cast<int16_t>(tile.tile_rows),
                      .split = split,
                      .partial_row = header_.num_partial_rows,
                      .cost = Cost(tile.tile_rows, num_keys)});
    header_.num_partial_rows += tile.num_rows;
  }
}

void AttentionPlan::AddCombines(const Tile& tile, int32_t partial_row, int num_splits) {
  for (int row = 0; row < tile.num_rows; row += kAttentionCombineRows) {
    combines_.push_back({.sequence = tile.sequence,
                         .first_row = tile.first_row + row,
                         .num_rows = std::min(kAttentionCombineRows, tile.num_rows - row),
                         .num_splits = num_splits,
                         .partial_row = partial_row + row,
                         .split_stride = tile.num_rows});
  }
}

size_t AttentionPlan::items_bytes() const {
  return items_.size() * sizeof(AttentionItem) + combines_.size() * sizeof(AttentionCombine);
}

void AttentionPlan::Pack(size_t items_offset, void* header) const {
  CHECK(items_offset >= sizeof(AttentionPlanHeader) && items_offset % alignof(AttentionItem) == 0)
      << items_offset;
  AttentionPlanHeader placed = header_;
  placed.items_offset = static_cast<int32_t>(items_offset);
  std::memcpy(header, &placed, sizeof(placed));
  char* out = static_cast<char*>(header) + items_offset;
  if (!items_.empty()) std::memcpy(out, items_.data(), items_.size() * sizeof(AttentionItem));
  out += items_.size() * sizeof(AttentionItem);
  if (combines_.empty()) return;
  std::memcpy(out, combines_.data(), combines_.size() * sizeof(AttentionCombine));
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
