#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/kv_page.h"

namespace tessera {
namespace {

constexpr int kItemsPerWorker = 4;  // so that the last ones to finish leave little idle time
constexpr int kMinPackedRows = 24;  // below it, loading K and V costs more than it is used
constexpr int kMaxRowsToCut = 16;   // packed rows of a block that may be cut along its keys
constexpr int64_t kLoadCost = 6;    // of a key for a whole block, in keys of one row
constexpr double kLog2E = 1.4426950408889634;

const AttentionKernel& KernelFor(CpuIsa isa) {
  switch (ResolveIsa(isa)) {
    case CpuIsa::kAuto:
    case CpuIsa::kPortable:
      break;
    case CpuIsa::kAvx2:
      return kAttentionAvx2;
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Vnni:
    case CpuIsa::kAmx:
      return kAttentionAvx512;
  }
  return kAttentionPortable;
}

AttentionCall MakeCall(const AttentionParams& params) {
  const SequenceBatch& batch = *params.batch;
  AttentionCall call;
  call.q = static_cast<const float*>(params.q);
  call.q_stride = params.q_stride;
  call.out = static_cast<float*>(params.out);
  call.pages = params.pages;
  call.page_bytes = KvHeadStride(params.spec.head_dim) * params.spec.num_kv_heads *
                    static_cast<int64_t>(sizeof(uint16_t));
  call.query_starts = batch.query_starts.data();
  call.kv_lengths = batch.kv_lengths.data();
  call.page_starts = batch.page_starts.data();
  call.page_ids = batch.page_ids.data();
  call.num_heads = params.num_heads;
  call.num_kv_heads = params.spec.num_kv_heads;
  call.head_dim = params.spec.head_dim;
  call.window = params.window;
  call.causal = params.causal;
  const bool capped = params.softcap != 0.0f;
  const double cap = static_cast<double>(params.softcap);
  const double scale = static_cast<double>(params.scale);
  call.q_scale = static_cast<float>(capped ? scale / cap : scale * kLog2E);
  call.cap_scale = capped ? static_cast<float>(cap * kLog2E) : 0.0f;
  return call;
}

void CheckCall(const AttentionParams& params) {
  const int head_dim = params.spec.head_dim;
  CHECK(head_dim % 8 == 0 && head_dim > 0 && head_dim <= kMaxHeadDim)
      << "head_dim must be a multiple of 8 up to " << kMaxHeadDim << ", got " << head_dim;
  CHECK(params.spec.num_kv_heads > 0 && params.num_heads % params.spec.num_kv_heads == 0)
      << params.num_heads << " heads over " << params.spec.num_kv_heads << " kv heads";
  const SequenceBatch& batch = *params.batch;
  for (int i = 0; i < batch.num_sequences(); ++i) {
    const int num_pages = batch.page_starts[i + 1] - batch.page_starts[i];
    CHECK_LE(batch.query_starts[i + 1] - batch.query_starts[i], batch.kv_lengths[i]);
    CHECK_LE(batch.kv_lengths[i], int64_t{num_pages} * kPageTokens);
  }
}

int MaxPackedRows(const AttentionCall& call) {
  return std::max(kAttentionMaxPackedRows, call.num_heads / call.num_kv_heads);
}

}  // namespace

CpuAttention::CpuAttention(WorkerPool* pool, CpuIsa isa)
    : pool_(pool), kernel_(KernelFor(isa)), scratch_(pool->num_threads()) {}

void CpuAttention::Buffer::Reserve(int64_t num_floats) {
  if (num_floats <= size) return;
  size = (num_floats + 15) / 16 * 16;
  void* memory = std::aligned_alloc(64, static_cast<size_t>(size) * sizeof(float));
  CHECK(memory != nullptr) << "out of memory for " << size << " floats of attention scratch";
  data.reset(static_cast<float*>(memory));
}

void CpuAttention::Run(const AttentionParams& params) {
  CheckCall(params);
  const AttentionCall call = MakeCall(params);
  PlanBlocks(call, params.batch->num_sequences());
  CutBlocks(call);
  ReserveScratch(call);

  std::atomic<size_t> next_item{0};
  std::atomic<size_t> next_merge{0};
  float* const parts = parts_.data.get();
  pool_->Run([&](int worker) {
    float* const scratch = scratch_[worker].data.get();
    const auto claim = [&]() -> const AttentionItem* {
      const size_t i = next_item.fetch_add(1, std::memory_order_relaxed);
      return i < items_.size() ? &items_[i].item : nullptr;
    };
    // One ahead, so that the end of an item can prefetch the next one's keys.
    for (const AttentionItem* item = claim(); item != nullptr;) {
      const AttentionItem* const next = claim();
      kernel_.run(call, *item, next, parts, scratch);
      item = next;
    }
    if (merges_.empty()) return;
    pool_->Barrier();
    for (size_t i; (i = next_merge.fetch_add(1, std::memory_order_relaxed)) < merges_.size();) {
      kernel_.merge(call, merges_[i], parts, scratch);
    }
  });
}

// Blocks of as many rows as share a tile's loads well, but enough blocks for every worker.
void CpuAttention::PlanBlocks(const AttentionCall& call, int num_sequences) {
  const int group = call.num_heads / call.num_kv_heads;
  const int64_t num_rows = call.query_starts[num_sequences];
  const int64_t wanted_items = int64_t{kItemsPerWorker} * pool_->num_threads();
  const int64_t most = std::max(1, kAttentionMaxPackedRows / group);
  const int64_t least = std::max(1, kMinPackedRows / group);
  const int64_t max_rows = std::clamp(num_rows * call.num_kv_heads / wanted_items, least, most);
  blocks_.clear();
  for (int i = 0; i < num_sequences; ++i) AddBlocks(call, i, static_cast<int>(max_rows));
}

void CpuAttention::AddBlocks(const AttentionCall& call, int sequence, int max_rows) {
  const int num_rows = call.query_starts[sequence + 1] - call.query_starts[sequence];
  const int64_t kv_length = call.kv_lengths[sequence];
  const int group = call.num_heads / call.num_kv_heads;
  for (int first_row = 0; first_row < num_rows; first_row += max_rows) {
    const int rows = std::min(max_rows, num_rows - first_row);
    const int64_t first_position = kv_length - num_rows + first_row;
    const int64_t end_key = call.causal ? first_position + rows : kv_length;
    const int64_t first_key =
        call.window > 0 ? std::max<int64_t>(0, first_position - call.window + 1) : 0;
    AttentionItem item;
    item.sequence = sequence;
    item.first_row = first_row;
    item.num_rows = rows;
    item.first_split = static_cast<int32_t>(first_key / kAttentionSplitTokens);
    item.end_split =
        static_cast<int32_t>((end_key + kAttentionSplitTokens - 1) / kAttentionSplitTokens);
    item.parts = -1;
    item.block_first_split = item.first_split;
    const int64_t cost = (int64_t{rows} * group + kLoadCost) * (end_key - first_key);
    for (item.kv_head = 0; item.kv_head < call.num_kv_heads; ++item.kv_head) {
      blocks_.push_back({cost, item});
    }
  }
}

// Cuts the blocks that would keep one worker busy while the others wait.
void CpuAttention::CutBlocks(const AttentionCall& call) {
  const int group = call.num_heads / call.num_kv_heads;
  const int64_t part_stride = AttentionPartStride(PaddedHeadDim(call.head_dim));
  int64_t total_cost = 0;
  for (const PlannedItem& block : blocks_) total_cost += block.cost;
  const int64_t max_cost = total_cost / (int64_t{kItemsPerWorker} * pool_->num_threads()) + 1;

  items_.clear();
  merges_.clear();
  num_part_floats_ = 0;
  for (PlannedItem block : blocks_) {
    const int packed_rows = block.item.num_rows * group;
    const int num_splits = block.item.end_split - block.item.first_split;
    const int64_t num_cuts = std::min<int64_t>(num_splits, (block.cost + max_cost - 1) / max_cost);
    if (pool_->num_threads() == 1 || packed_rows > kMaxRowsToCut || num_cuts <= 1) {
      items_.push_back(block);
      continue;
    }
    block.item.parts = num_part_floats_;
    num_part_floats_ += int64_t{num_splits} * packed_rows * part_stride;
    merges_.push_back(block.item);
    PlannedItem cut = {block.cost / num_cuts, block.item};
    for (int64_t i = 0; i < num_cuts; ++i) {
      cut.item.first_split =
          block.item.first_split + static_cast<int32_t>(num_splits * i / num_cuts);
      cut.item.end_split =
          block.item.first_split + static_cast<int32_t>(num_splits * (i + 1) / num_cuts);
      items_.push_back(cut);
    }
  }
  std::sort(items_.begin(), items_.end(),
            [](const PlannedItem& a, const PlannedItem& b) { return a.cost > b.cost; });
}

void CpuAttention::ReserveScratch(const AttentionCall& call) {
  const int64_t per_worker =
      AttentionScratchFloats(call.head_dim, PaddedHeadDim(call.head_dim), MaxPackedRows(call));
  for (Buffer& buffer : scratch_) buffer.Reserve(per_worker);
  parts_.Reserve(num_part_floats_);
}

}  // namespace tessera
