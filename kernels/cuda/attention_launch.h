#pragma once

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

struct AttentionGrid {
  int num_blocks;
  int num_combine_blocks;  // 0: the plan holds no combines
};

// Attention for one type and head dimension. Each head dimension is instantiated in a source file
// of its own (attention_d64.cu and so on), since it takes long to compile.
template <typename T, int D>
void LaunchAttentionKernels(const Stream& stream, const AttentionKernelParams& params,
                            const AttentionGrid& grid);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
