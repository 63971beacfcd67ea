#pragma once

#include "kernels/cuda/gemm.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Defined in gemm_kernel.cuh, instantiated in gemm_<type>.cu.
template <typename T, DType kType>
void LaunchGemm(GemmTileSize size, const GemmParams& params, const Stream& stream);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
