#pragma once

// Part of kernels/cpu/simd.h: include that. Two ymm registers: lanes 0-7 and 8-15.

namespace tessera {
namespace {

// All bits of a lane set or clear.
struct Mask16 {
  __m256 lo, hi;
};

struct U32x16 {
  __m256i lo, hi;
  SIMD_INLINE static U32x16 Broadcast(uint32_t x) {
    const __m256i v = _mm256_set1_epi32(static_cast<int>(x));
    return {v, v};
  }
};

struct F32x16 {
  using Uint = U32x16;
  using Mask = Mask16;
  __m256 lo, hi;
  SIMD_INLINE static F32x16 Broadcast(float x) {
    const __m256 v = _mm256_set1_ps(x);
    return {v, v};
  }
  SIMD_INLINE static F32x16 Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
};

SIMD_INLINE F32x16 operator+(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
SIMD_INLINE F32x16 operator-(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
SIMD_INLINE F32x16 operator*(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
SIMD_INLINE F32x16 operator/(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
SIMD_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
SIMD_INLINE F32x16 Min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
SIMD_INLINE F32x16 Max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
SIMD_INLINE F32x16 Sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }

SIMD_INLINE Mask16 Less(F32x16 a, F32x16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
SIMD_INLINE Mask16 LessEqual(F32x16 a, F32x16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LE_OQ)};
}
SIMD_INLINE Mask16 Equal(F32x16 a, F32x16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ)};
}
SIMD_INLINE Mask16 And(Mask16 a, Mask16 b) {
  return {_mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)};
}
SIMD_INLINE Mask16 Or(Mask16 a, Mask16 b) {
  return {_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)};
}
SIMD_INLINE Mask16 Not(Mask16 a) {
  const __m256 ones = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  return {_mm256_xor_ps(a.lo, ones), _mm256_xor_ps(a.hi, ones)};
}
SIMD_INLINE F32x16 Select(Mask16 mask, F32x16 a, F32x16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, mask.lo), _mm256_blendv_ps(b.hi, a.hi, mask.hi)};
}

SIMD_INLINE U32x16 BitCastU32(F32x16 a) {
  return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)};
}
SIMD_INLINE F32x16 BitCastF32(U32x16 a) {
  return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
}
SIMD_INLINE U32x16 operator+(U32x16 a, U32x16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
SIMD_INLINE U32x16 operator-(U32x16 a, U32x16 b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
SIMD_INLINE U32x16 operator&(U32x16 a, U32x16 b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
SIMD_INLINE U32x16 operator|(U32x16 a, U32x16 b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
template <int kBits>
SIMD_INLINE U32x16 ShiftLeft(U32x16 a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
template <int kBits>
SIMD_INLINE U32x16 ShiftRight(U32x16 a) {
  return {_mm256_srli_epi32(a.lo, kBits), _mm256_srli_epi32(a.hi, kBits)};
}
template <int kBits>
SIMD_INLINE U32x16 SignedShiftRight(U32x16 a) {
  return {_mm256_srai_epi32(a.lo, kBits), _mm256_srai_epi32(a.hi, kBits)};
}
SIMD_INLINE F32x16 SignedToFloat(U32x16 a) {
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}

SIMD_INLINE F32x16 Abs(F32x16 a) {
  return BitCastF32(BitCastU32(a) & U32x16::Broadcast(0x7FFFFFFFu));
}
SIMD_INLINE Mask16 IsFinite(F32x16 a) { return Less(Abs(a), F32x16::Broadcast(__builtin_inff())); }

SIMD_INLINE F32x16 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
SIMD_INLINE void Store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
// REQUIRES: 0 <= n <= 16, here and below.
SIMD_INLINE Mask16 FirstLanes(int n) {
  const __m256i limit = _mm256_set1_epi32(n);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i lane8 = _mm256_add_epi32(lane, _mm256_set1_epi32(8));
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, lane)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, lane8))};
}
SIMD_INLINE uint32_t MaskBits(Mask16 a) {
  return static_cast<uint32_t>(_mm256_movemask_ps(a.lo) | (_mm256_movemask_ps(a.hi) << 8));
}
// Whole vectors apart: masked stores take AMD's CPUs tens of cycles.
SIMD_INLINE F32x16 LoadFirst(const float* p, int n) {
  if (n == 16) return Load(p);
  const Mask16 mask = FirstLanes(n);
  return {_mm256_maskload_ps(p, _mm256_castps_si256(mask.lo)),
          _mm256_maskload_ps(p + 8, _mm256_castps_si256(mask.hi))};
}
SIMD_INLINE void StoreFirst(float* p, F32x16 a, int n) {
  if (n == 16) return Store(p, a);
  const Mask16 mask = FirstLanes(n);
  _mm256_maskstore_ps(p, _mm256_castps_si256(mask.lo), a.lo);
  _mm256_maskstore_ps(p + 8, _mm256_castps_si256(mask.hi), a.hi);
}
SIMD_INLINE F32x16 LoadHalf(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
SIMD_INLINE __m128i ToHalfFinite(__m256 a) {
  const __m256 limit = _mm256_set1_ps(65504.0f);
  const __m256 ordered = _mm256_cmp_ps(a, a, _CMP_ORD_Q);
  const __m256 clamped =
      _mm256_max_ps(_mm256_min_ps(a, limit), _mm256_sub_ps(_mm256_setzero_ps(), limit));
  return _mm256_cvtps_ph(_mm256_and_ps(ordered, clamped),
                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SIMD_INLINE void StoreHalfFinite(uint16_t* p, F32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), ToHalfFinite(a.lo));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), ToHalfFinite(a.hi));
}

SIMD_INLINE float ReduceAdd(F32x16 a) {
  const __m256 r8 = _mm256_add_ps(a.lo, a.hi);
  const __m128 r4 = _mm_add_ps(_mm256_castps256_ps128(r8), _mm256_extractf128_ps(r8, 1));
  const __m128 r2 = _mm_add_ps(r4, _mm_movehl_ps(r4, r4));
  return _mm_cvtss_f32(_mm_add_ss(r2, _mm_movehdup_ps(r2)));
}
SIMD_INLINE float ReduceMax(F32x16 a) {
  const __m256 r8 = _mm256_max_ps(a.lo, a.hi);
  const __m128 r4 = _mm_max_ps(_mm256_castps256_ps128(r8), _mm256_extractf128_ps(r8, 1));
  const __m128 r2 = _mm_max_ps(r4, _mm_movehl_ps(r4, r4));
  return _mm_cvtss_f32(_mm_max_ss(r2, _mm_movehdup_ps(r2)));
}

}  // namespace
}  // namespace tessera
