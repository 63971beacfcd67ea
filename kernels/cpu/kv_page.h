#pragma once

#include <cstdint>

#include "kernels/backend.h"

// The CPU's layout of one KV page of one layer: for each kv head, in fp16,
//   K transposed by blocks of 16 tokens [64 / 16][head_dim][16], then
//   V [64 tokens][PaddedHeadDim(head_dim)].
// K transposed lets the lanes of a score be keys, V as it is lets the lanes of an output be
// dimensions, so neither product needs a horizontal sum. Blocks keep a token's K on half as many
// cache lines as whole columns would, and a partly filled page's K together. V's padding holds
// zeros.
//
// Internal linkage, since files with their own instruction flags include this (kernels/cpu/simd.h).

namespace tessera {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int kKeyBlockTokens = 16;

[[gnu::always_inline]] constexpr int PaddedHeadDim(int head_dim) { return (head_dim + 15) & ~15; }

// Elements from a head's K to element d of the K of a page's token `slot`; add kKeyBlockTokens for
// the next d.
[[gnu::always_inline]] constexpr int64_t KeyOffset(int head_dim, int slot, int d) {
  return int64_t{slot / kKeyBlockTokens * head_dim + d} * kKeyBlockTokens + slot % kKeyBlockTokens;
}

// Elements from one head's K to the same head's V, and from one head to the next.
[[gnu::always_inline]] constexpr int64_t ValueOffset(int head_dim) {
  return int64_t{head_dim} * kPageTokens;
}
[[gnu::always_inline]] constexpr int64_t KvHeadStride(int head_dim) {
  return ValueOffset(head_dim) + int64_t{PaddedHeadDim(head_dim)} * kPageTokens;
}

}  // namespace
}  // namespace tessera
