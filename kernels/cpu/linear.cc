#include "kernels/cpu/linear.h"

#include <algorithm>
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
// Up to here weights are unpacked in registers, anew for each tile; above, a chunk at a time into
// the L1 cache, for all tiles.
constexpr int64_t kMaxDirectRows = 32;
// With fewer rows than this for each, workers share the rows and divide the channels alone: each
// worker must unpack the weights for itself.
constexpr int64_t kMinRowsPerPart = 64;

const LinearKernels& KernelsFor(CpuIsa isa) {
  switch (ResolveIsa(isa)) {
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

bool AnyQuantized(std::span<const PackedWeight* const> weights) {
  return std::any_of(weights.begin(), weights.end(),
                     [](const PackedWeight* weight) { return IsQuantized(weight->type()); });
}

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
  bool quantized;  // some weight is
  int64_t num_panels;
  int64_t num_tiles;
  int64_t num_parts;

  int64_t TileBegin(int64_t tile) const { return ShareBegin(num_rows, tile, num_tiles); }
  int TileRows(int64_t tile) const {
    return static_cast<int>(TileBegin(tile + 1) - TileBegin(tile));
  }
  bool is_private() const { return num_rows <= kMaxPrivateRows; }

  QuantTile Tile(const QuantizedRows& rows, int64_t tile, int64_t first_block) const {
    const int64_t row = TileBegin(tile);
    const int64_t num_blocks = cols / kQuantBlock;
    const int64_t scale = row * num_blocks + first_block * TileRows(tile);
    return {rows.q.data() + row * cols + first_block * TileRows(tile) * kQuantBlock,
            rows.scale.data() + scale, rows.scaled_sum.data() + scale};
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

struct CpuLinear::WorkerScratch {
  alignas(64) float sums[kMaxBandRows * kPanelChannels];  // [rows of a part][32 channels]
  alignas(64) uint8_t unpacked[kChunkBlocks * kUnpackedBlockBytes];
  QuantizedRows private_rows;

  float* Sums(const Band& band, const RowRange& rows, int64_t tile) {
    return sums + (band.TileBegin(tile) - rows.first_row) * kPanelChannels;
  }
};

void CpuLinear::QuantizedRows::Reserve(int64_t num_rows, int64_t cols) {
  const auto num_values = static_cast<size_t>(num_rows * cols);
  if (q.size() >= num_values) return;
  q.resize(num_values);
  scale.resize(num_values / kQuantBlock);
  scaled_sum.resize(num_values / kQuantBlock);
}

CpuLinear::CpuLinear(WorkerPool* pool, CpuIsa isa) : pool_(pool), kernels_(KernelsFor(isa)) {
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
  band.quantized = AnyQuantized(weights);
  for (const PackedWeight* weight : weights) {
    CHECK_EQ(weight->cols(), band.cols);
    band.out_stride += weight->rows();
    band.num_panels += static_cast<const CpuWeight*>(weight)->num_panels();
  }
  for (int64_t row = 0; row < num_rows; row += kMaxBandRows) {
    band.num_rows = std::min(kMaxBandRows, num_rows - row);
    band.num_tiles = (band.num_rows + kernels_.tile_rows - 1) / kernels_.tile_rows;
    band.num_parts = std::clamp<int64_t>(band.num_rows / kMinRowsPerPart, 1, pool_->num_threads());
    band.x = x + row * band.cols;
    band.out = out + row * band.out_stride;
    RunBand(band);
  }
}

void CpuLinear::RunBand(const Band& band) {
  if (band.quantized && !band.is_private()) shared_rows_.Reserve(band.num_rows, band.cols);
  if (band.quantized && band.is_private()) {
    for (auto& scratch : scratch_) scratch->private_rows.Reserve(band.num_rows, band.cols);
  }
  pool_->Run([&](int worker) { RunWorker(band, worker); });
}

void CpuLinear::RunWorker(const Band& band, int worker) {
  const int num_workers = pool_->num_threads();
  WorkerScratch* scratch = scratch_[static_cast<size_t>(worker)].get();
  QuantizedRows* x = band.is_private() ? &scratch->private_rows : &shared_rows_;
  if (band.quantized && band.is_private()) {
    QuantizeTiles(band, 0, band.num_tiles, x);
  } else if (band.quantized) {
    QuantizeTiles(band, ShareBegin(band.num_tiles, worker, num_workers),
                  ShareBegin(band.num_tiles, worker + 1, num_workers), x);
    pool_->Barrier();
  }
  const int64_t num_items = band.num_parts * band.num_panels;
  const int64_t first_item = ShareBegin(num_items, worker, num_workers);
  const int64_t end_item = ShareBegin(num_items, worker + 1, num_workers);
  for (int64_t part = 0; part < band.num_parts; ++part) {
    const int64_t part_item = part * band.num_panels;
    MultiplyPanels(band, RowRange(band, part), *x, std::max<int64_t>(0, first_item - part_item),
                   std::min(band.num_panels, end_item - part_item), scratch);
  }
}

void CpuLinear::QuantizeTiles(const Band& band, int64_t first_tile, int64_t end_tile,
                              QuantizedRows* rows) const {
  const int64_t num_blocks = band.cols / kQuantBlock;
  for (int64_t tile = first_tile; tile < end_tile; ++tile) {
    const int64_t tile_row = band.TileBegin(tile);
    const int tile_rows = band.TileRows(tile);
    for (int64_t r = 0; r < tile_rows; ++r) {
      const int64_t scale = tile_row * num_blocks + r;
      kernels_.quantize(band.x + (tile_row + r) * band.cols, static_cast<int>(num_blocks),
                        int64_t{tile_rows} * kQuantBlock, tile_rows,
                        rows->q.data() + tile_row * band.cols + r * kQuantBlock,
                        rows->scale.data() + scale, rows->scaled_sum.data() + scale);
    }
  }
}

void CpuLinear::MultiplyPanels(const Band& band, const RowRange& rows, const QuantizedRows& x,
                               int64_t first_panel, int64_t end_panel,
                               WorkerScratch* scratch) const {
  int64_t weight_panel = 0;  // the current weight's first among the call's panels
  float* out = band.out + rows.first_row * band.out_stride;
  for (const PackedWeight* packed : band.weights) {
    const auto& weight = static_cast<const CpuWeight&>(*packed);
    const int64_t first = std::max<int64_t>(0, first_panel - weight_panel);
    const int64_t end = std::min(weight.num_panels(), end_panel - weight_panel);
    for (int64_t panel = first; panel < end; ++panel) {
      MultiplyPanel(band, rows, x, weight, weight.panel(panel), scratch);
      const int64_t channel = panel * kPanelChannels;
      const int64_t num_channels = std::min<int64_t>(kPanelChannels, weight.rows() - channel);
      CopySums(scratch->sums, rows.num_rows, num_channels, band.out_stride, out + channel);
    }
    weight_panel += weight.num_panels();
    out += weight.rows();
  }
}

void CpuLinear::MultiplyPanel(const Band& band, const RowRange& rows, const QuantizedRows& x,
                              const CpuWeight& weight, const uint8_t* panel,
                              WorkerScratch* scratch) const {
  const auto type = static_cast<size_t>(weight.type());
  if (!IsQuantized(weight.type())) {
    for (int64_t tile = rows.first_tile; tile < rows.end_tile; ++tile) {
      kernels_.dot_float[type][band.TileRows(tile) - 1](panel, band.cols,
                                                        band.x + band.TileBegin(tile) * band.cols,
                                                        band.cols, scratch->Sums(band, rows, tile));
    }
    return;
  }
  std::fill_n(scratch->sums, rows.num_rows * kPanelChannels, 0.0f);
  if (rows.num_rows > kMaxDirectRows && kernels_.unpack[type] != nullptr) {
    MultiplyUnpacked(band, rows, x, weight, panel, scratch);
    return;
  }
  for (int64_t tile = rows.first_tile; tile < rows.end_tile; ++tile) {
    kernels_.dot_packed[type][band.TileRows(tile) - 1](
        panel, static_cast<int>(band.cols / kQuantBlock), band.Tile(x, tile, 0),
        scratch->Sums(band, rows, tile));
  }
}

void CpuLinear::MultiplyUnpacked(const Band& band, const RowRange& rows, const QuantizedRows& x,
                                 const CpuWeight& weight, const uint8_t* panel,
                                 WorkerScratch* scratch) const {
  const BlockLayout layout = LayoutOf(weight.type());
  const auto kind = static_cast<size_t>(UnpackedKind(layout.scales));
  const int64_t num_blocks = band.cols / kQuantBlock;
  for (int64_t block = 0; block < num_blocks; block += kChunkBlocks) {
    const int count = static_cast<int>(std::min<int64_t>(kChunkBlocks, num_blocks - block));
    kernels_.unpack[static_cast<size_t>(weight.type())](panel, count, scratch->unpacked);
    for (int64_t tile = rows.first_tile; tile < rows.end_tile; ++tile) {
      kernels_.dot_unpacked[kind][band.TileRows(tile) - 1](
          scratch->unpacked, count, band.Tile(x, tile, block), scratch->Sums(band, rows, tile));
    }
    panel += ChunkBytes(layout);
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
