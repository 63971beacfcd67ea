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

// Decode streams weights: narrow tiles make enough blocks to fill the device at N = 4,096, and deep
// ones keep 32 to 48 KB of weights on their way per SM. Prefill reuses them: 128 x 128 outputs take
// 64 flops per byte of shared memory. Every tile has the same mma shape and order.
using SmallGemmTile = GemmTile<16, 32, 128, 16, 8, 4>;
using MediumGemmTile = GemmTile<64, 64, 64, 32, 32, 4>;
using LargeGemmTile = GemmTile<128, 128, 64, 64, 32, 3>;

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
