#include "kernels/cpu/linear.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/isa.h"

namespace tessera {
namespace {

// Rows multiplied at a time: enough to spread the cost of unpacking weights, few enough that the
// activations stay in a core's L2 cache.
constexpr int64_t kMaxBandRows = 256;
// Up to here each worker quantises all rows for itself, which is cheaper than to meet and share.
constexpr int64_t kMaxPrivateRows = 8;
// Fewer rows are multiplied faster by VNNI, from registers.
constexpr int64_t kMinAmxRows = 13;
static_assert(kMinAmxRows > kMaxPrivateRows);
// With fewer rows than this for each, workers share the rows and divide the channels alone: each
// worker must unpack the weights for itself.
constexpr int64_t kMinRowsPerPart = 64;

const LinearKernels& KernelsFor(CpuIsa isa) {
  switch (ResolveIsa(isa)) {
    case CpuIsa::kAmx:
    case CpuIsa::kAvx512Vnni:
      return kLinearAvx512Vnni;
    case CpuIsa::kAvx512:
      return kLinearAvx512;
    case CpuIsa::kAvx2:
      return kLinearAvx2;
    case CpuIsa::kAuto:
    case CpuIsa::kPortable:
      break;
  }
  return kLinearPortable;
}

// The beginning of share `index` when `count` things are dealt evenly into `num_shares`.
int64_t ShareBegin(int64_t count, int64_t index, int64_t num_shares) {
  return count * index / num_shares;
}

// Blocks to unpack at a time: whole chunks, or evenly where there are none.
int64_t BlocksAtOnce(const BlockLayout& layout, int64_t max_blocks, int64_t num_blocks) {
  if (layout.header_bytes > 0) return kChunkBlocks;
  const int64_t num_times = (num_blocks + max_blocks - 1) / max_blocks;
  return (num_blocks + num_times - 1) / num_times;
}

// sums: [num_rows][32]. A whole panel's width is known, which saves the calls.
void CopySums(const float* sums, int64_t num_rows, int64_t num_channels, int64_t out_stride,
              float* out) {
  for (int64_t r = 0; r < num_rows; ++r, sums += kPanelChannels, out += out_stride) {
    if (num_channels == kPanelChannels) {
      std::memcpy(out, sums, kPanelChannels * sizeof(float));
    } else {
      std::memcpy(out, sums, static_cast<size_t>(num_channels) * sizeof(float));
    }
  }
}

bool IsQuantizedWeight(const PackedWeight* weight) { return IsQuantized(weight->type()); }

}  // namespace

// Up to kMaxBandRows rows of a call, cut into tiles of rows that a kernel takes at once. Workers
// share out (part of the tiles, panel) pairs.
struct CpuLinear::Band {
  const float* x;  // [num_rows, cols]
  int64_t num_rows;
  int64_t cols;
  float* out;  // [num_rows, out_stride]
  int64_t out_stride;
  std::span<const PackedWeight* const> weights;
  const LinearKernels* kernels;
  bool quantized;  // some weight is
  int64_t num_panels;
  int64_t num_tiles;
  int64_t num_parts;

  // Evenly, those with a row more first.
  int64_t TileBegin(int64_t tile) const {
    return tile * (num_rows / num_tiles) + std::min(tile, num_rows % num_tiles);
  }
  int TileRows(int64_t tile) const {
    return static_cast<int>(TileBegin(tile + 1) - TileBegin(tile));
  }
  // Of those up to `end`, the first with fewer rows than `tile`.
  int64_t EndOfEqualTiles(int64_t tile, int64_t end) const {
    const int64_t num_larger = num_rows % num_tiles;
    return tile < num_larger ? std::min(end, num_larger) : end;
  }
  bool is_private() const { return num_rows <= kMaxPrivateRows; }

  QuantTile Tile(const QuantizedRows& rows, int64_t tile, int64_t first_block) const {
    const int64_t block = TileBegin(tile) * (cols / kQuantBlock) + first_block * TileRows(tile);
    return {rows.words() + block * kernels->block_words, rows.scale.data() + block,
            rows.scaled_sum.data() + block};
  }
};

// One part of a band's tiles.
struct CpuLinear::RowRange {
  int64_t first_tile;
  int64_t end_tile;
  int64_t first_row;
  int64_t num_rows;

  RowRange(const Band& band, int64_t part)
      : first_tile(ShareBegin(band.num_tiles, part, band.num_parts)),
        end_tile(ShareBegin(band.num_tiles, part + 1, band.num_parts)),
        first_row(band.TileBegin(first_tile)),
        num_rows(band.TileBegin(end_tile) - first_row) {}
};

// (Part of the tiles, panel) pairs that a worker begins with.
struct alignas(64) CpuLinear::Share {
  std::atomic<int64_t> next;
  int64_t end;
};

struct CpuLinear::WorkerScratch {
  alignas(64) float sums[kMaxBandRows * kPanelChannels];  // [rows of a part][32 channels]
  alignas(64) uint8_t unpacked[kMaxUnpackedBlocks * kUnpackedBlockBytes];
  QuantizedRows private_rows;

  float* Sums(const Band& band, const RowRange& rows, int64_t tile) {
    return sums + (band.TileBegin(tile) - rows.first_row) * kPanelChannels;
  }
};

void CpuLinear::QuantizedRows::Reserve(int64_t num_blocks, int block_words) {
  const auto size = static_cast<size_t>(num_blocks);
  q.resize(
      std::max(q.size(), size * static_cast<size_t>(block_words) / std::size(CacheLine{}.words)));
  scale.resize(std::max(scale.size(), size));
  scaled_sum.resize(std::max(scaled_sum.size(), size));
}

CpuLinear::CpuLinear(WorkerPool* pool, CpuIsa isa)
    : pool_(pool),
      kernels_(KernelsFor(isa)),
      has_amx_(ResolveIsa(isa) == CpuIsa::kAmx),
      shares_(static_cast<size_t>(pool->num_threads())) {
  for (int worker = 0; worker < pool->num_threads(); ++worker) {
    scratch_.push_back(std::make_unique<WorkerScratch>());
  }
}

CpuLinear::~CpuLinear() = default;

void CpuLinear::Run(const float* x, int64_t num_rows, std::span<const PackedWeight* const> weights,
                    float* out) {
  CHECK(!weights.empty());
  Band band = {};
  band.cols = weights[0]->cols();
  band.weights = weights;
  band.quantized = std::any_of(weights.begin(), weights.end(), IsQuantizedWeight);
  const bool all_quantized = std::all_of(weights.begin(), weights.end(), IsQuantizedWeight);
  for (const PackedWeight* weight : weights) {
    CHECK_EQ(weight->cols(), band.cols);
    band.out_stride += weight->rows();
    band.num_panels += static_cast<const CpuWeight*>(weight)->num_panels();
  }
  for (int64_t row = 0; row < num_rows; row += kMaxBandRows) {
    band.num_rows = std::min(kMaxBandRows, num_rows - row);
    const bool use_amx = has_amx_ && all_quantized && band.num_rows >= kMinAmxRows;
    band.kernels = use_amx ? &kLinearAmx : &kernels_;
    band.num_tiles = (band.num_rows + band.kernels->tile_rows - 1) / band.kernels->tile_rows;
    band.num_parts = std::clamp<int64_t>(band.num_rows / kMinRowsPerPart, 1, pool_->num_threads());
    band.x = x + row * band.cols;
    band.out = out + row * band.out_stride;
    RunBand(band);
  }
}

void CpuLinear::RunBand(const Band& band) {
  const int64_t num_blocks = band.quantized ? band.num_rows * (band.cols / kQuantBlock) : 0;
  if (!band.is_private()) shared_rows_.Reserve(num_blocks, band.kernels->block_words);
  if (band.is_private()) {
    for (auto& scratch : scratch_) {
      scratch->private_rows.Reserve(num_blocks, band.kernels->block_words);
    }
  }
  DealShares(band);
  pool_->Run([&](int worker) { RunWorker(band, worker); });
}

void CpuLinear::DealShares(const Band& band) {
  const int num_workers = pool_->num_threads();
  const int64_t num_items = band.num_parts * band.num_panels;
  for (int worker = 0; worker < num_workers; ++worker) {
    Share* share = &shares_[static_cast<size_t>(worker)];
    share->next.store(ShareBegin(num_items, worker, num_workers), std::memory_order_relaxed);
    share->end = ShareBegin(num_items, worker + 1, num_workers);
  }
}

void CpuLinear::RunWorker(const Band& band, int worker) {
  const int num_workers = pool_->num_threads();
  WorkerScratch* scratch = scratch_[static_cast<size_t>(worker)].get();
  QuantizedRows* x = band.is_private() ? &scratch->private_rows : &shared_rows_;
  if (band.quantized && band.is_private()) {
    QuantizeRows(band, 0, band.num_rows, x);
  } else if (band.quantized) {
    QuantizeRows(band, ShareBegin(band.num_rows, worker, num_workers),
                 ShareBegin(band.num_rows, worker + 1, num_workers), x);
    pool_->Barrier();
  }
  for (int i = 0; i < num_workers; ++i) {  // its own share, then what others have left
    Share* share = &shares_[static_cast<size_t>((worker + i) % num_workers)];
    for (int64_t item; (item = share->next.fetch_add(1, std::memory_order_relaxed)) < share->end;) {
      MultiplyPanelOf(band, RowRange(band, item / band.num_panels), *x, item % band.num_panels,
                      scratch);
    }
  }
  if (band.kernels->release != nullptr) band.kernels->release();
}

void CpuLinear::QuantizeRows(const Band& band, int64_t first_row, int64_t end_row,
                             QuantizedRows* rows) const {
  const int64_t num_blocks = band.cols / kQuantBlock;
  int64_t tile = 0;
  for (int64_t row = first_row; row < end_row; ++row) {
    while (band.TileBegin(tile + 1) <= row) ++tile;
    const int64_t tile_row = band.TileBegin(tile);
    const int64_t block = tile_row * num_blocks + (row - tile_row);
    const int64_t block_stride = band.TileRows(tile);
    band.kernels->quantize(band.x + row * band.cols, static_cast<int>(num_blocks),
                           block_stride * band.kernels->block_words, block_stride,
                           rows->words() + block * band.kernels->block_words,
                           rows->scale.data() + block, rows->scaled_sum.data() + block);
  }
}

void CpuLinear::MultiplyPanelOf(const Band& band, const RowRange& rows, const QuantizedRows& x,
                                int64_t panel, WorkerScratch* scratch) const {
  float* out = band.out + rows.first_row * band.out_stride;
  auto weight = static_cast<const CpuWeight*>(band.weights[0]);
  for (size_t i = 1; panel >= weight->num_panels(); ++i) {
    panel -= weight->num_panels();
    out += weight->rows();
    weight = static_cast<const CpuWeight*>(band.weights[i]);
  }
  MultiplyPanel(band, rows, x, *weight, weight->panel(panel), scratch);
  const int64_t channel = panel * kPanelChannels;
  const int64_t num_channels = std::min<int64_t>(kPanelChannels, weight->rows() - channel);
  CopySums(scratch->sums, rows.num_rows, num_channels, band.out_stride, out + channel);
}

void CpuLinear::MultiplyPanel(const Band& band, const RowRange& rows, const QuantizedRows& x,
                              const CpuWeight& weight, const uint8_t* panel,
                              WorkerScratch* scratch) const {
  const auto type = static_cast<size_t>(weight.type());
  if (!IsQuantized(weight.type())) {
    for (int64_t tile = rows.first_tile; tile < rows.end_tile; ++tile) {
      band.kernels->dot_float[type][band.TileRows(tile) - 1](
          panel, band.cols, band.x + band.TileBegin(tile) * band.cols, band.cols,
          scratch->Sums(band, rows, tile));
    }
    return;
  }
  std::fill_n(scratch->sums, rows.num_rows * kPanelChannels, 0.0f);
  if (rows.num_rows > band.kernels->max_direct_rows) {
    MultiplyUnpacked(band, rows, x, weight, panel, scratch);
    return;
  }
  for (int64_t tile = rows.first_tile; tile < rows.end_tile; ++tile) {
    band.kernels->dot_packed[type][band.TileRows(tile) - 1](
        panel, static_cast<int>(band.cols / kQuantBlock), band.Tile(x, tile, 0),
        scratch->Sums(band, rows, tile));
  }
}

void CpuLinear::MultiplyUnpacked(const Band& band, const RowRange& rows, const QuantizedRows& x,
                                 const CpuWeight& weight, const uint8_t* panel,
                                 WorkerScratch* scratch) const {
  const BlockLayout layout = LayoutOf(weight.type());
  const auto type = static_cast<size_t>(weight.type());
  const int64_t num_blocks = band.cols / kQuantBlock;
  const int64_t at_once = BlocksAtOnce(layout, band.kernels->max_unpacked_blocks, num_blocks);
  for (int64_t block = 0; block < num_blocks; block += at_once) {
    const int count = static_cast<int>(std::min(at_once, num_blocks - block));
    band.kernels->unpack[type](panel, count, scratch->unpacked);
    panel += layout.header_bytes + count * layout.block_bytes;
    CacheLines next = {panel, layout.header_bytes + count * layout.block_bytes};
    for (int64_t tile = rows.first_tile; tile < rows.end_tile;) {
      const int num_tiles = static_cast<int>(band.EndOfEqualTiles(tile, rows.end_tile) - tile);
      const QuantTiles tiles = {band.Tile(x, tile, block), num_tiles,
                                band.TileRows(tile) * num_blocks};
      band.kernels->dot_unpacked[type][band.TileRows(tile) - 1](
          scratch->unpacked, count, tiles, next, scratch->Sums(band, rows, tile));
      next.num_bytes = 0;
      tile += num_tiles;
    }
  }
}

void CpuLinear::Embed(const CpuWeight& table, std::span<const TokenId> tokens, float* out) {
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  const auto embed_share = [&](int worker) {
    const int64_t end = ShareBegin(num_tokens, worker + 1, pool_->num_threads());
    for (int64_t i = ShareBegin(num_tokens, worker, pool_->num_threads()); i < end; ++i) {
      table.DequantizeRowTo(tokens[static_cast<size_t>(i)], out + i * table.cols());
    }
  };
  pool_->Run(embed_share);
}

}  // namespace tessera
