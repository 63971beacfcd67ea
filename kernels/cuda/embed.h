#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/gemm_weight.h"
#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// out[r] = table row tokens[r], as kernels/dequantize.h defines it, bit for bit. The table may
// also be of type F32 here. A slot that has no last token, -1, is taken to have token 0.
struct EmbedParams {
  WeightView table;
  const TokenId* tokens = nullptr;  // [num_rows], each below table.rows; or LastTokenOf
  int num_rows = 0;
  float* out = nullptr;                  // [num_rows, table.cols]
  const TokenId* last_tokens = nullptr;  // of all slots
};

void Embed(const EmbedParams& params, const Stream& stream);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
