#include "base/check.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/gemm_quant.cuh"
#include "kernels/cuda/launch.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 128;
constexpr int kLanesPerTile = 4;  // that hold one row's columns of a tile

__device__ float AsFloat(float value) { return value; }
__device__ float AsFloat(Bf16 value) { return ToFloat(value); }
__device__ float AsFloat(Fp16 value) { return ToFloat(value); }

__device__ TokenId TokenOf(const EmbedParams& params, int row) {
  const TokenId token = params.tokens[row];
  return token >= 0 ? token : max(params.last_tokens[~token], 0);  // LastTokenOf is ~slot
}

// One block a row.
template <typename Element>
__global__ void __launch_bounds__(kThreads) EmbedFloatKernel(EmbedParams params) {
  const int cols = params.table.cols;
  const int64_t token = TokenOf(params, static_cast<int>(blockIdx.x));
  const Element* row = static_cast<const Element*>(params.table.data) + token * cols;
  float* out = params.out + int64_t{blockIdx.x} * cols;
  for (int i = static_cast<int>(threadIdx.x); i < cols; i += kThreads) out[i] = AsFloat(row[i]);
}

// The columns of one lane in a block of 32.
template <DType kType>
__device__ void EmbedLaneBlock(const uint8_t* tile, const uint8_t* supers, int row, int t,
                               int block, float* out) {
  uint32_t words[QuantBits(kType) / 4];
  LoadQuantWords<kType>(tile, 4 * row + t, block, words);
  RowScale scales[2];
  LoadRowScales<kType>(tile, supers, block, row & ~1, scales);
  const RowScale scale = row % 2 == 0 ? scales[0] : scales[1];
  TESSERA_UNROLL
  for (int pair = 0; pair < 4; ++pair) {
    float values[2];
    for (int i = 0; i < 2; ++i) {
      const auto quant = static_cast<float>(QuantAt<kType>(words, 2 * pair + i));
      values[i] = scale.d[pair / 2] * quant;  // exact
      if constexpr (QuantHasMinimum(kType)) values[i] += scale.m;
    }
    *reinterpret_cast<float2*>(out + pair / 2 * 16 + pair % 2 * 8 + 2 * t) =
        make_float2(values[0], values[1]);
  }
}

// One block a row, four threads a tile of 64 columns.
template <DType kType>
__global__ void __launch_bounds__(kThreads) EmbedQuantKernel(EmbedParams params) {
  const WeightView& table = params.table;
  const int token = TokenOf(params, static_cast<int>(blockIdx.x));
  const int panel = token / kPanelRows;
  const auto* data = static_cast<const uint8_t*>(table.data);
  float* out = params.out + int64_t{blockIdx.x} * table.cols;
  const int num_lanes = table.tiles_per_panel() * kLanesPerTile;
  for (int i = static_cast<int>(threadIdx.x); i < num_lanes; i += kThreads) {
    const int tile = i / kLanesPerTile;
    const uint8_t* supers = nullptr;
    if constexpr (HasSuperScales(kType)) {
      supers = data + SuperOffset(table, panel, tile * kTileCols / kSuperCols);
    }
    for (int block = 0; block < 2; ++block) {
      const int first_col = tile * kTileCols + block * 32;
      if (first_col >= table.cols) break;
      EmbedLaneBlock<kType>(data + TileOffset(table, panel, tile), supers, token % kPanelRows,
                            i % kLanesPerTile, block, out + first_col);
    }
  }
}

template <auto Kernel>
void LaunchRows(const EmbedParams& params, const Stream& stream) {
  Launch<Kernel>(stream, static_cast<unsigned>(params.num_rows), kThreads, 0, params);
}

}  // namespace

void Embed(const EmbedParams& params, const Stream& stream) {
  if (params.num_rows == 0) return;
  switch (params.table.type) {
    case DType::kF32:
      return LaunchRows<EmbedFloatKernel<float>>(params, stream);
    case DType::kF16:
      return LaunchRows<EmbedFloatKernel<Fp16>>(params, stream);
    case DType::kBf16:
      return LaunchRows<EmbedFloatKernel<Bf16>>(params, stream);
    case DType::kQ8_0:
      return LaunchRows<EmbedQuantKernel<DType::kQ8_0>>(params, stream);
    case DType::kQ4_0:
      return LaunchRows<EmbedQuantKernel<DType::kQ4_0>>(params, stream);
    case DType::kQ4_1:
      return LaunchRows<EmbedQuantKernel<DType::kQ4_1>>(params, stream);
    case DType::kQ5_1:
      return LaunchRows<EmbedQuantKernel<DType::kQ5_1>>(params, stream);
    case DType::kQ4_K:
      return LaunchRows<EmbedQuantKernel<DType::kQ4_K>>(params, stream);
    case DType::kQ5_K:
      return LaunchRows<EmbedQuantKernel<DType::kQ5_K>>(params, stream);
    case DType::kQ6_K:
      return LaunchRows<EmbedQuantKernel<DType::kQ6_K>>(params, stream);
    default:
      CHECK(false) << "no table is stored as " << Name(params.table.type);
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
