#pragma once

#include "kernels/cuda/gemm_tile.cuh"

// Global memory -> one stage of shared memory, by cp.async of all threads. What lies outside x or
// the weight becomes zero.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// kNumRows rows of a row-major matrix of T, from row first_row and column first_col on.
template <int kNumRows, typename Tile>
__device__ __forceinline__ void LoadRows(const uint16_t* matrix, int num_rows, int num_cols,
                                         int first_row, int first_col, uint16_t* stage) {
  constexpr int kChunks = Tile::kDepth / kChunkElements;
  TESSERA_UNROLL
  for (int i = 0; i < kNumRows * kChunks; i += Tile::kThreads) {
    const int index = i + static_cast<int>(threadIdx.x);
    if (kNumRows * kChunks % Tile::kThreads != 0 && index >= kNumRows * kChunks) break;
    const int row = index / kChunks;
    const int chunk = index % kChunks;
    const int col = first_col + chunk * kChunkElements;
    const bool valid = first_row + row < num_rows && col < num_cols;
    const int64_t offset = int64_t{first_row + row} * num_cols + col;
    CopyAsync16(stage + SwizzledOffset<Tile::kDepth>(row, chunk), matrix + (valid ? offset : 0),
                valid);
  }
}

// The panels' tiles of this stage, which lie one after another.
template <DType kType, typename Tile>
__device__ __forceinline__ void LoadPanels(const WeightView& weight, int first_panel, int first_col,
                                           uint8_t* stage) {
  using Stage = GemmStage<kType, Tile>;
  constexpr int kChunks = Stage::kPanelBytes / 16;
  constexpr int kAllChunks = Stage::kPanels * kChunks;
  const auto* data = static_cast<const uint8_t*>(weight.data);
  const int first_tile = first_col / kTileCols;
  TESSERA_UNROLL
  for (int i = 0; i < kAllChunks; i += Tile::kThreads) {
    const int index = i + static_cast<int>(threadIdx.x);
    if (kAllChunks % Tile::kThreads != 0 && index >= kAllChunks) break;
    const int panel = index / kChunks;
    const int byte = index % kChunks * 16;
    const bool valid = first_panel + panel < weight.num_panels() &&
                       first_tile + byte / TileBytes(kType) < weight.tiles_per_panel();
    const int64_t tile = int64_t{first_panel + panel} * weight.tiles_per_panel() + first_tile;
    CopyAsync16(stage + index * 16, data + (valid ? tile * TileBytes(kType) + byte : 0), valid);
  }
}

// The panels' scales of 256 columns, of which the stage is a part.
template <DType kType, typename Tile>
__device__ __forceinline__ void LoadSupers(const WeightView& weight, int first_panel, int first_col,
                                           uint8_t* supers) {
  constexpr int kChunks = kSuperBytes / 16;
  constexpr int kAllChunks = GemmStage<kType, Tile>::kPanels * kChunks;
  const auto* data = static_cast<const uint8_t*>(weight.data);
  for (int i = static_cast<int>(threadIdx.x); i < kAllChunks; i += Tile::kThreads) {
    const int panel = first_panel + i / kChunks;
    const bool valid = panel < weight.num_panels();
    const int64_t offset = SuperOffset(weight, panel, first_col / kSuperCols) + i % kChunks * 16;
    CopyAsync16(supers + i * 16, data + (valid ? offset : 0), valid);
  }
}

template <DType kType, typename Tile>
__device__ __forceinline__ void LoadStage(const GemmParams& params, const WeightView& weight,
                                          const GemmBlock& block, int first_col, uint8_t* stage) {
  using Stage = GemmStage<kType, Tile>;
  LoadRows<Tile::kRows, Tile>(static_cast<const uint16_t*>(params.x), params.num_rows, weight.cols,
                              block.first_row, first_col, reinterpret_cast<uint16_t*>(stage));
  if constexpr (Stage::kQuantized) {
    const int first_panel = block.first_col / kPanelRows;
    LoadPanels<kType, Tile>(weight, first_panel, first_col, stage + Stage::kXBytes);
    if constexpr (HasSuperScales(kType)) {
      LoadSupers<kType, Tile>(weight, first_panel, first_col, stage + Stage::kSupersBegin);
    }
  } else {
    LoadRows<Tile::kCols, Tile>(static_cast<const uint16_t*>(weight.data), weight.rows, weight.cols,
                                block.first_col, first_col,
                                reinterpret_cast<uint16_t*>(stage + Stage::kXBytes));
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
