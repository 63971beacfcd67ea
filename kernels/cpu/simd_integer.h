#pragma once

// Integer operations on the virtual vector that random draws and exact sums need; internal linkage,
// as in kernels/cpu/simd.h.
//   LoadU32, StoreU32, Xor
//   MultiplyWide(a, m): high and low halves of the 64-bit products
//   Truncate(F32x16): to int32_t, towards zero. REQUIRES: |x| < 2^31

#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

struct WideProduct {
  U32x16 high, low;
};

#if defined(__AVX512F__)

SIMD_INLINE U32x16 LoadU32(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
SIMD_INLINE void StoreU32(uint32_t* p, U32x16 a) { _mm512_storeu_si512(p, a.v); }
SIMD_INLINE U32x16 Xor(U32x16 a, U32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
SIMD_INLINE U32x16 Truncate(F32x16 a) { return {_mm512_cvttps_epi32(a.v)}; }

SIMD_INLINE WideProduct MultiplyWide(U32x16 a, uint32_t multiplier) {
  const __mmask16 odd_lanes = 0xAAAA;
  const __m512i m = _mm512_set1_epi32(static_cast<int>(multiplier));
  const __m512i even = _mm512_mul_epu32(a.v, m);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), m);
  return {{_mm512_mask_blend_epi32(odd_lanes, _mm512_srli_epi64(even, 32), odd)},
          {_mm512_mask_blend_epi32(odd_lanes, even, _mm512_slli_epi64(odd, 32))}};
}

#elif defined(__AVX2__)

SIMD_INLINE U32x16 LoadU32(const uint32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
SIMD_INLINE void StoreU32(uint32_t* p, U32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
}
SIMD_INLINE U32x16 Xor(U32x16 a, U32x16 b) {
  return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
}
SIMD_INLINE U32x16 Truncate(F32x16 a) {
  return {_mm256_cvttps_epi32(a.lo), _mm256_cvttps_epi32(a.hi)};
}

SIMD_INLINE void MultiplyWide8(__m256i a, __m256i m, __m256i* high, __m256i* low) {
  constexpr int kOddLanes = 0xAA;
  const __m256i even = _mm256_mul_epu32(a, m);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
  *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, kOddLanes);
  *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), kOddLanes);
}
SIMD_INLINE WideProduct MultiplyWide(U32x16 a, uint32_t multiplier) {
  const __m256i m = _mm256_set1_epi32(static_cast<int>(multiplier));
  WideProduct product;
  MultiplyWide8(a.lo, m, &product.high.lo, &product.low.lo);
  MultiplyWide8(a.hi, m, &product.high.hi, &product.low.hi);
  return product;
}

#else

SIMD_INLINE U32x16 LoadU32(const uint32_t* p) {
  U32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = p[j];
  return r;
}
SIMD_INLINE void StoreU32(uint32_t* p, U32x16 a) {
  for (int j = 0; j < 16; ++j) p[j] = a.v[j];
}
SIMD_INLINE U32x16 Xor(U32x16 a, U32x16 b) {
  U32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] ^ b.v[j];
  return r;
}
SIMD_INLINE U32x16 Truncate(F32x16 a) {
  U32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = static_cast<uint32_t>(static_cast<int32_t>(a.v[j]));
  return r;
}
SIMD_INLINE WideProduct MultiplyWide(U32x16 a, uint32_t multiplier) {
  WideProduct r;
  for (int j = 0; j < 16; ++j) {
    const uint64_t product = uint64_t{a.v[j]} * multiplier;
    r.high.v[j] = static_cast<uint32_t>(product >> 32);
    r.low.v[j] = static_cast<uint32_t>(product);
  }
  return r;
}

#endif

}  // namespace
}  // namespace tessera
