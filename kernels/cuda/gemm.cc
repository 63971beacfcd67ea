#include "kernels/cuda/gemm.h"

#include "base/check.h"
#include "kernels/cuda/gemm_launch.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

GemmTileSize ChooseGemmTile(int num_rows) {
  if (num_rows <= 16) return GemmTileSize::k16Rows;
  return num_rows <= 64 ? GemmTileSize::k64Rows : GemmTileSize::k128Rows;
}

template <typename T>
void GemmWithTile(GemmTileSize size, const GemmParams& params, const Stream& stream) {
  constexpr DType kFloatType = StoredType<T>(DType::kF32);
  CHECK(params.num_weights >= 1 && params.num_weights <= kMaxGemmWeights) << params.num_weights;
  if (params.num_rows == 0) return;
  CHECK_EQ(params.weights[0].cols % 8, 0) << "columns: " << params.weights[0].cols;
  for (int i = 1; i < params.num_weights; ++i) {
    CHECK(params.weights[i].type == params.weights[0].type) << "weights of two types";
    CHECK_EQ(params.weights[i].cols, params.weights[0].cols);
  }
  switch (params.weights[0].type) {
    case kFloatType:
      return LaunchGemm<T, kFloatType>(size, params, stream);
    case DType::kQ8_0:
      return LaunchGemm<T, DType::kQ8_0>(size, params, stream);
    case DType::kQ4_0:
      return LaunchGemm<T, DType::kQ4_0>(size, params, stream);
    case DType::kQ4_1:
      return LaunchGemm<T, DType::kQ4_1>(size, params, stream);
    case DType::kQ5_1:
      return LaunchGemm<T, DType::kQ5_1>(size, params, stream);
    case DType::kQ4_K:
      return LaunchGemm<T, DType::kQ4_K>(size, params, stream);
    case DType::kQ5_K:
      return LaunchGemm<T, DType::kQ5_K>(size, params, stream);
    case DType::kQ6_K:
      return LaunchGemm<T, DType::kQ6_K>(size, params, stream);
    default:
      CHECK(false) << "no weight is stored as " << Name(params.weights[0].type);
  }
}

template <typename T>
void Gemm(const GemmParams& params, const Stream& stream) {
  GemmWithTile<T>(ChooseGemmTile(params.num_rows), params, stream);
}

template void Gemm<Bf16>(const GemmParams&, const Stream&);
template void Gemm<Fp16>(const GemmParams&, const Stream&);
template void GemmWithTile<Bf16>(GemmTileSize, const GemmParams&, const Stream&);
template void GemmWithTile<Fp16>(GemmTileSize, const GemmParams&, const Stream&);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
