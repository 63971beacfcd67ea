#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/step_view.h"
#include "kernels/dtype.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Queries are normalised (if a weight is given), rotated and rounded in place; keys likewise, and
// with the values appended to their pages (kv_page.h). What is stored is finite: infinities
// saturate and NaN becomes 0, and either flags the row. Padding rows store nothing and are not
// flagged.
struct RopeStoreKvLaunch {
  DType type = DType::kBf16;  // of qkv and pages; kBf16 or kF16
  void* qkv = nullptr;        // [num_rows, (num_heads + 2 num_kv_heads) * head_dim]: q, k, v
  int num_heads = 0;
  KvSpec spec;            // head_dim a multiple of 16, at most 256
  void* pages = nullptr;  // one layer's
  StepView step;
  const float* rope_cos = nullptr;  // [max_positions, rope_dim / 2]; pair i is (i, i + rope_dim/2)
  const float* rope_sin = nullptr;
  int rope_dim = 0;               // a multiple of 16, at most head_dim; 0: no rotation
  const float* q_norm = nullptr;  // [head_dim], RMSNorm weight of each query head; null: none
  const float* k_norm = nullptr;  // [head_dim], of each key head
  float norm_epsilon = 0.0f;
  uint8_t* row_faults = nullptr;  // [num_rows], set to 1 where a k or v was not finite
};
void LaunchRopeStoreKv(const Stream& stream, const RopeStoreKvLaunch& launch);

// Copies the first num_tokens tokens of page `from` to page `to`, in one layer's pages.
void LaunchCopyPage(const Stream& stream, const KvSpec& spec, void* pages, int32_t from, int32_t to,
                    int num_tokens);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
