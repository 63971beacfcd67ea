#include "kernels/cuda/gemm_kernel.cuh"
#include "kernels/cuda/gemm_launch.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

template void LaunchGemm<Bf16, DType::kQ5_K>(GemmTileSize, const GemmParams&, const Stream&);
template void LaunchGemm<Fp16, DType::kQ5_K>(GemmTileSize, const GemmParams&, const Stream&);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
