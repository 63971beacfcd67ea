#pragma once

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_quant.cuh"

// Which part of the product a block, a warp and a lane have, and where a pipeline stage lies in
// shared memory.

namespace tessera::TESSERA_CUDA_NAMESPACE {

inline constexpr int kWarpThreads = 32;
inline constexpr int kMmaRows = 16;       // of x
inline constexpr int kMmaCols = 8;        // outputs, rows of a weight
inline constexpr int kBlockDepth = 32;    // columns that the main loop takes at once: two k16 steps
inline constexpr int kChunkElements = 8;  // of T in 16 bytes

// A block computes kRows x kCols outputs, kDepth columns of x and the weight a stage.
template <int kRowsValue, int kColsValue, int kDepthValue, int kWarpRowsValue, int kWarpColsValue,
          int kStagesValue>
struct GemmTile {
  static constexpr int kRows = kRowsValue;
  static constexpr int kCols = kColsValue;
  static constexpr int kDepth = kDepthValue;
  static constexpr int kWarpRows = kWarpRowsValue;  // of one warp's part
  static constexpr int kWarpCols = kWarpColsValue;
  static constexpr int kStages = kStagesValue;
  static constexpr int kWarpsAcross = kCols / kWarpCols;
  static constexpr int kThreads = (kRows / kWarpRows) * kWarpsAcross * kWarpThreads;
  static constexpr int kMmasDown = kWarpRows / kMmaRows;
  static constexpr int kMmasAcross = kWarpCols / kMmaCols;
  static_assert(kDepth % kTileCols == 0 && kSuperCols % kDepth == 0);
};

// Every tile has the same mma shape and order. Decode streams weights: narrow tiles make enough
// blocks for every SM at 4,096 outputs, and stages keep 14 to 40 KB of a block's weights on their
// way. Prefill reuses them: 128 x 128 outputs take 64 flops per byte of shared memory.
template <DType kType>
struct GemmTiles {
  static constexpr bool kDeep = IsQuantized(kType);  // a column takes few bytes
  static constexpr int kMediumStages = !kDeep ? 6 : QuantBits(kType) == 4 ? 4 : 3;
  using Small = GemmTile<16, 32, kDeep ? 256 : 128, 16, 8, kDeep ? 5 : 6>;
  using Medium = GemmTile<64, 64, kDeep ? 128 : 64, 32, 32, kMediumStages>;
  using Large = GemmTile<128, 128, 64, 64, 32, 3>;
};

// What a block may have on every device from 8.0 on (8.6 and 8.9 have least).
inline constexpr int kMaxGemmSharedBytes = 99 * 1024;

// Row-major rows of kDepth elements of T whose 16-byte chunks are permuted within each 128 bytes,
// so that ldmatrix and the copies meet no bank conflict.
template <int kDepth>
__device__ __forceinline__ int SwizzledOffset(int row, int chunk) {
  return (row * (kDepth / kChunkElements) + (chunk ^ (row & 7))) * kChunkElements;
}

// A stage: x's rows, then the weight's rows (float) or panels (quantised).
template <DType kType, typename Tile>
struct GemmStage {
  static constexpr bool kQuantized = IsQuantized(kType);
  static constexpr int kPanels = Tile::kCols / kPanelRows;
  static constexpr int kPanelBytes =
      kQuantized ? Tile::kDepth / kTileCols * TileBytes(kType) : kPanelRows * Tile::kDepth * 2;
  static constexpr int kXBytes = Tile::kRows * Tile::kDepth * 2;
  static constexpr int kSupersBegin = kXBytes + kPanels * kPanelBytes;
  static constexpr int kBytes = kSupersBegin + (HasSuperScales(kType) ? kPanels * kSuperBytes : 0);
};

// A block's place in the product.
struct GemmBlock {
  int first_row;      // of x
  int first_col;      // row of the weight
  int64_t first_out;  // column of out where the weight begins
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
