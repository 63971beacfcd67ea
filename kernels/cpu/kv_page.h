#pragma once

#include <cstdint>

#include "kernels/backend.h"

// The CPU's layout of one KV page of one layer: for each kv head, in fp16,
//   K transposed [head_dim][64 tokens], then V [64 tokens][PaddedHeadDim(head_dim)].
// K transposed lets the lanes of a score be keys, V as it is lets the lanes of an output be
// dimensions, so neither product needs a horizontal sum. V's padding holds zeros.
//
// Internal linkage, since files with their own instruction flags include this (kernels/cpu/simd.h).

namespace tessera {
namespace {

constexpr int kMaxHeadDim = 256;

[[gnu::always_inline]] constexpr int PaddedHeadDim(int head_dim) { return (head_dim + 15) & ~15; }

// Elements from one head's K to the same head's V, and from one head to the next.
[[gnu::always_inline]] constexpr int64_t ValueOffset(int head_dim) {
  return int64_t{head_dim} * kPageTokens;
}
[[gnu::always_inline]] constexpr int64_t KvHeadStride(int head_dim) {
  return ValueOffset(head_dim) + int64_t{PaddedHeadDim(head_dim)} * kPageTokens;
}

}  // namespace
}  // namespace tessera
