#pragma once

// Rotation and the rounded store of keys and values, compiled once for each instruction set
// (rope_store_kv_{portable,avx2,avx512}.cc).

#include "kernels/cpu/kv_page.h"
#include "kernels/cpu/rope_store_kv_kernel.h"
#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

// (x, y) -> (x cos - y sin, x sin + y cos), each with one product rounded first.
SIMD_INLINE void RotateLanes(float* x, float* y, const float* cosines, const float* sines, int n) {
  const F32x16 a = LoadFirst(x, n);
  const F32x16 b = LoadFirst(y, n);
  const F32x16 c = LoadFirst(cosines, n);
  const F32x16 s = LoadFirst(sines, n);
  StoreFirst(x, Fma(a, c, F32x16::Zero() - b * s), n);
  StoreFirst(y, Fma(a, s, b * c), n);
}

SIMD_INLINE void Rotate(const RopeStoreKvCall& call, int64_t position, float* head) {
  const int num_pairs = call.rope_dim / 2;
  const float* cosines = call.rope_cos + position * num_pairs;
  const float* sines = call.rope_sin + position * num_pairs;
  for (int i = 0; i < num_pairs; i += 16) {
    const int n = num_pairs - i < 16 ? num_pairs - i : 16;
    RotateLanes(head + i, head + num_pairs + i, cosines + i, sines + i, n);
  }
}

// Rounds a head to fp16, zeros up to a multiple of 16. Returns true if a value was not finite.
SIMD_INLINE bool RoundHead(const float* head, int head_dim, uint16_t* out) {
  bool is_faulty = false;
  for (int d = 0; d < head_dim; d += 16) {
    const F32x16 x = LoadFirst(head + d, head_dim - d < 16 ? head_dim - d : 16);
    is_faulty |= MaskBits(IsFinite(x)) != 0xFFFFu;
    StoreHalfFinite(out + d, x);
  }
  return is_faulty;
}

SIMD_INLINE bool StoreKey(const RopeStoreKvCall& call, const float* head, int slot,
                          uint16_t* page_keys) {
  alignas(64) uint16_t rounded[kMaxHeadDim];
  const bool is_faulty = RoundHead(head, call.head_dim, rounded);
  uint16_t* keys = page_keys + KeyOffset(call.head_dim, slot, 0);
  for (int d = 0; d < call.head_dim; ++d) keys[d * kKeyBlockTokens] = rounded[d];
  return is_faulty;
}

bool RunHeads(const RopeStoreKvCall& call, int64_t row, int64_t position, int32_t page_id,
              int first_head, int end_head) {
  const int num_row_heads = call.num_heads + 2 * call.num_kv_heads;
  uint16_t* page = reinterpret_cast<uint16_t*>(call.pages + page_id * call.page_bytes);
  const int slot = static_cast<int>(position % kPageTokens);
  bool is_faulty = false;
  for (int h = first_head; h < end_head; ++h) {
    float* head = call.qkv + (row * num_row_heads + h) * call.head_dim;
    const int kv_head = h - call.num_heads;
    if (kv_head < call.num_kv_heads) Rotate(call, position, head);
    if (kv_head < 0) continue;
    if (kv_head < call.num_kv_heads) {
      is_faulty |= StoreKey(call, head, slot, page + kv_head * KvHeadStride(call.head_dim));
      continue;
    }
    uint16_t* head_page = page + (kv_head - call.num_kv_heads) * KvHeadStride(call.head_dim);
    uint16_t* values = head_page + ValueOffset(call.head_dim);
    is_faulty |= RoundHead(head, call.head_dim, values + slot * PaddedHeadDim(call.head_dim));
  }
  return is_faulty;
}

constexpr RopeStoreKvKernel kKernel = {RunHeads};

}  // namespace
}  // namespace tessera
