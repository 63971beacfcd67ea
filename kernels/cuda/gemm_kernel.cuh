#pragma once

#include "kernels/cuda/gemm_load.cuh"
#include "kernels/cuda/gemm_mma.cuh"
#include "kernels/cuda/gemm_store.cuh"
#include "kernels/cuda/launch.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// The weight that this block's tile of all weights' tiles falls into, and the block's place in it.
template <typename Tile>
__device__ __forceinline__ WeightView FindWeight(const GemmParams& params, GemmBlock& block) {
  int col_tile = static_cast<int>(blockIdx.y);
  WeightView weight = params.weights[0];
  block.first_out = 0;
  TESSERA_UNROLL
  for (int i = 1; i < kMaxGemmWeights; ++i) {
    const int num_tiles = (weight.rows + Tile::kCols - 1) / Tile::kCols;
    if (i >= params.num_weights || col_tile < num_tiles) break;
    col_tile -= num_tiles;
    block.first_out += weight.rows;
    weight = params.weights[i];
  }
  block.first_row = static_cast<int>(blockIdx.x) * Tile::kRows;
  block.first_col = col_tile * Tile::kCols;
  return weight;
}

// grid: (tiles of x's rows, tiles of outputs): blocks that run together share weights.
template <typename T, DType kType, typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) GemmKernel(GemmParams params) {
  constexpr int kStageBytes = GemmStage<kType, Tile>::kBytes;
  uint8_t* stages = DynamicShared<uint8_t>();
  GemmBlock block;
  const WeightView weight = FindWeight<Tile>(params, block);
  const int num_steps = (weight.cols + Tile::kDepth - 1) / Tile::kDepth;
  const auto load = [&](int step) {
    if (step < num_steps) {
      LoadStage<kType, Tile>(params, weight, block, step * Tile::kDepth,
                             stages + step % Tile::kStages * kStageBytes);
    }
    CopyAsyncCommit();
  };

  for (int step = 0; step < Tile::kStages - 1; ++step) load(step);
  GemmAccumulators<Tile> accumulators = {};
  for (int step = 0; step < num_steps; ++step) {
    CopyAsyncWait<Tile::kStages - 2>();
    __syncthreads();  // the step's stage is there, and every warp is done with the last one's
    load(step + Tile::kStages - 1);
    MultiplyStage<T, kType, Tile>(stages + step % Tile::kStages * kStageBytes,
                                  weight.cols - step * Tile::kDepth, accumulators);
  }
  StoreTile<T, Tile>(params, weight, block, accumulators);
}

template <typename T, DType kType, typename Tile>
void LaunchGemmTile(const GemmParams& params, const Stream& stream) {
  constexpr int kSharedBytes = Tile::kStages * GemmStage<kType, Tile>::kBytes;
  static_assert(kSharedBytes <= kMaxGemmSharedBytes);
  unsigned col_tiles = 0;
  for (int i = 0; i < params.num_weights; ++i) {
    col_tiles += static_cast<unsigned>((params.weights[i].rows + Tile::kCols - 1) / Tile::kCols);
  }
  const auto row_tiles = static_cast<unsigned>((params.num_rows + Tile::kRows - 1) / Tile::kRows);
  Launch<GemmKernel<T, kType, Tile>>(stream, dim3(row_tiles, col_tiles), Tile::kThreads,
                                     kSharedBytes, params);
}

// One translation unit instantiates it for each type of weight.
template <typename T, DType kType>
void LaunchGemm(GemmTileSize size, const GemmParams& params, const Stream& stream) {
  switch (size) {
    case GemmTileSize::k16Rows:
      return LaunchGemmTile<T, kType, typename GemmTiles<kType>::Small>(params, stream);
    case GemmTileSize::k64Rows:
      return LaunchGemmTile<T, kType, typename GemmTiles<kType>::Medium>(params, stream);
    case GemmTileSize::k128Rows:
      return LaunchGemmTile<T, kType, typename GemmTiles<kType>::Large>(params, stream);
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
