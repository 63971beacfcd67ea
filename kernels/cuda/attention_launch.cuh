#pragma once

#include "kernels/cuda/attention_combine.cuh"
#include "kernels/cuda/attention_kernel.cuh"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/launch.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

template <typename T, int D>
void LaunchAttentionKernels(const Stream& stream, const AttentionKernelParams& params,
                            const AttentionGrid& grid) {
  const dim3 block(kAttentionThreads);
  Launch<AttentionKernel<T, D>>(stream, dim3(static_cast<unsigned>(grid.num_blocks)), block,
                                static_cast<size_t>(AttentionTile<D>::kSharedBytes), params);
  if (grid.num_combine_blocks == 0) return;
  Launch<AttentionCombineKernel<T, D>>(stream, dim3(static_cast<unsigned>(grid.num_combine_blocks)),
                                       block, 0, params);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
