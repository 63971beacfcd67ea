#pragma once

#include "kernels/cuda/gemm_tile.cuh"

// One stage of shared memory -> a warp's accumulators.

namespace tessera::TESSERA_CUDA_NAMESPACE {

template <typename Tile>
using GemmAccumulators = float[Tile::kMmasDown][Tile::kMmasAcross][4];

// x's part of a block of 32 columns, for two k16 steps.
template <typename Tile>
struct XFragments {
  uint32_t a[Tile::kMmasDown][2][4];
};

// A weight's part of 8 rows and 32 columns.
struct WeightFragment {
  uint32_t b[2][2];
};

template <typename Tile>
__device__ __forceinline__ void LoadXFragments(const uint16_t* x, int first_row, int block,
                                               XFragments<Tile>& fragments) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  TESSERA_UNROLL
  for (int i = 0; i < Tile::kMmasDown; ++i) {
    TESSERA_UNROLL
    for (int step = 0; step < 2; ++step) {
      const int row = first_row + i * kMmaRows + lane % 16;
      const int chunk = block * 4 + step * 2 + lane / 16;
      LoadMatrix4(fragments.a[i][step], x + SwizzledOffset<Tile::kDepth>(row, chunk));
    }
  }
}

template <typename Tile>
__device__ __forceinline__ WeightFragment LoadFloatFragment(const uint16_t* rows, int first_row,
                                                            int block) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  uint32_t registers[4];
  LoadMatrix4(registers,
              rows + SwizzledOffset<Tile::kDepth>(first_row + lane % 8, block * 4 + lane / 8));
  return {{{registers[0], registers[1]}, {registers[2], registers[3]}}};
}

template <typename T, DType kType>
__device__ __forceinline__ WeightFragment LoadQuantFragment(const uint8_t* tile, int block) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  uint32_t words[QuantBits(kType) / 4];
  LoadQuantWords<kType>(tile, lane, block, words);
  WeightFragment fragment;
  TESSERA_UNROLL
  for (int pair = 0; pair < 4; ++pair) {
    fragment.b[pair / 2][pair % 2] = QuantPair<T, kType>(words, pair);
  }
  return fragment;
}

template <typename T>
__device__ __forceinline__ void MmaBlock(const uint32_t (&a)[2][4], const WeightFragment& weight,
                                         float (&c)[4]) {
  Mma16816<T>(c, a[0], weight.b[0][0], weight.b[0][1]);
  Mma16816<T>(c, a[1], weight.b[1][0], weight.b[1][1]);
}

// c += dot * scale of each output's row of the weight; c's columns are two rows of it.
__device__ __forceinline__ void AddScaled(const float (&dot)[4], float scale0, float scale1,
                                          float (&c)[4]) {
  c[0] = FmaRn(dot[0], scale0, c[0]);
  c[1] = FmaRn(dot[1], scale1, c[1]);
  c[2] = FmaRn(dot[2], scale0, c[2]);
  c[3] = FmaRn(dot[3], scale1, c[3]);
}

// c += x's block times the weight's. Formats with a scale for 16 columns scale each k16 step.
template <typename T, DType kType>
__device__ __forceinline__ void AddBlockProduct(const uint32_t (&a)[2][4],
                                                const WeightFragment& weight,
                                                const RowScale (&scales)[2], float (&c)[4]) {
  float dot[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  if constexpr (kType == DType::kQ6_K) {
    float second[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    Mma16816<T>(dot, a[0], weight.b[0][0], weight.b[0][1]);
    Mma16816<T>(second, a[1], weight.b[1][0], weight.b[1][1]);
    AddScaled(dot, scales[0].d[0], scales[1].d[0], c);
    AddScaled(second, scales[0].d[1], scales[1].d[1], c);
  } else {
    MmaBlock<T>(a, weight, dot);
    AddScaled(dot, scales[0].d[0], scales[1].d[0], c);
  }
}

// The sums of x's rows over a block of 32 columns, as a product with ones: in every column of c.
template <typename T, typename Tile>
__device__ __forceinline__ void SumBlocks(const XFragments<Tile>& x,
                                          float (&sums)[Tile::kMmasDown][4]) {
  constexpr uint32_t kOnes = kBroadcastPair<T, 1>;
  TESSERA_UNROLL
  for (int i = 0; i < Tile::kMmasDown; ++i) {
    sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.0f;
    MmaBlock<T>(x.a[i], {{{kOnes, kOnes}, {kOnes, kOnes}}}, sums[i]);
  }
}

template <typename T, DType kType, typename Tile>
__device__ __forceinline__ void MultiplyFloatBlock(const uint8_t* stage, int first_col, int block,
                                                   const XFragments<Tile>& x,
                                                   GemmAccumulators<Tile>& accumulators) {
  const auto* rows = reinterpret_cast<const uint16_t*>(stage + GemmStage<kType, Tile>::kXBytes);
  TESSERA_UNROLL
  for (int j = 0; j < Tile::kMmasAcross; ++j) {
    const WeightFragment weight = LoadFloatFragment<Tile>(rows, first_col + j * kMmaCols, block);
    TESSERA_UNROLL
    for (int i = 0; i < Tile::kMmasDown; ++i) MmaBlock<T>(x.a[i], weight, accumulators[i][j]);
  }
}

template <typename T, DType kType, typename Tile>
__device__ __forceinline__ void MultiplyQuantBlock(const uint8_t* stage, int first_col, int block,
                                                   const XFragments<Tile>& x,
                                                   GemmAccumulators<Tile>& accumulators) {
  using Stage = GemmStage<kType, Tile>;
  constexpr int kBlocksPerTile = kTileCols / kBlockDepth;
  float sums[Tile::kMmasDown][4];
  if constexpr (QuantHasMinimum(kType)) SumBlocks<T, Tile>(x, sums);
  const int scale_row = static_cast<int>(threadIdx.x) % 4 * 2;
  TESSERA_UNROLL
  for (int j = 0; j < Tile::kMmasAcross; ++j) {
    const int panel = first_col / kPanelRows + j;
    const uint8_t* tile = stage + Stage::kXBytes + panel * Stage::kPanelBytes +
                          block / kBlocksPerTile * TileBytes(kType);
    const WeightFragment weight = LoadQuantFragment<T, kType>(tile, block % kBlocksPerTile);
    RowScale scales[2];
    LoadRowScales<kType>(tile, stage + Stage::kSupersBegin + panel * kSuperBytes,
                         block % kBlocksPerTile, scale_row, scales);
    TESSERA_UNROLL
    for (int i = 0; i < Tile::kMmasDown; ++i) {
      AddBlockProduct<T, kType>(x.a[i], weight, scales, accumulators[i][j]);
      if constexpr (QuantHasMinimum(kType)) {
        AddScaled(sums[i], scales[0].m, scales[1].m, accumulators[i][j]);
      }
    }
  }
}

// num_cols: that are left from the stage's first on.
template <typename T, DType kType, typename Tile>
__device__ __forceinline__ void MultiplyStage(const uint8_t* stage, int num_cols,
                                              GemmAccumulators<Tile>& accumulators) {
  constexpr int kBlocks = Tile::kDepth / kBlockDepth;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int first_row = warp / Tile::kWarpsAcross * Tile::kWarpRows;
  const int first_col = warp % Tile::kWarpsAcross * Tile::kWarpCols;
  const auto* x_rows = reinterpret_cast<const uint16_t*>(stage);
  XFragments<Tile> x;
  if constexpr (GemmStage<kType, Tile>::kQuantized) {
    // A bound unknown to the compiler keeps it from unrolling, which would cost too many registers.
    const int num_blocks = min(kBlocks, num_cols / kBlockDepth);
    for (int block = 0; block < num_blocks; ++block) {
      LoadXFragments<Tile>(x_rows, first_row, block, x);
      MultiplyQuantBlock<T, kType, Tile>(stage, first_col, block, x, accumulators);
    }
  } else {
    TESSERA_UNROLL
    for (int block = 0; block < kBlocks; ++block) {
      LoadXFragments<Tile>(x_rows, first_row, block, x);
      MultiplyFloatBlock<T, kType, Tile>(stage, first_col, block, x, accumulators);
    }
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
