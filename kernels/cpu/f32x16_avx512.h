#pragma once

// Part of kernels/cpu/simd.h: include that. One zmm register.

namespace tessera {
namespace {

struct Mask16 {
  __mmask16 v;
};

struct U32x16 {
  __m512i v;
  SIMD_INLINE static U32x16 Broadcast(uint32_t x) {
    return {_mm512_set1_epi32(static_cast<int>(x))};
  }
};

struct F32x16 {
  using Uint = U32x16;
  using Mask = Mask16;
  __m512 v;
  SIMD_INLINE static F32x16 Broadcast(float x) { return {_mm512_set1_ps(x)}; }
  SIMD_INLINE static F32x16 Zero() { return {_mm512_setzero_ps()}; }
};

SIMD_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
SIMD_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
SIMD_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
SIMD_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
SIMD_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
SIMD_INLINE F32x16 Min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
SIMD_INLINE F32x16 Max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
SIMD_INLINE F32x16 Sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }

SIMD_INLINE Mask16 Less(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
SIMD_INLINE Mask16 LessEqual(F32x16 a, F32x16 b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)};
}
SIMD_INLINE Mask16 Equal(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
SIMD_INLINE Mask16 And(Mask16 a, Mask16 b) { return {static_cast<__mmask16>(a.v & b.v)}; }
SIMD_INLINE Mask16 Or(Mask16 a, Mask16 b) { return {static_cast<__mmask16>(a.v | b.v)}; }
SIMD_INLINE Mask16 Not(Mask16 a) { return {static_cast<__mmask16>(~a.v)}; }
SIMD_INLINE F32x16 Select(Mask16 mask, F32x16 a, F32x16 b) {
  return {_mm512_mask_blend_ps(mask.v, b.v, a.v)};
}

SIMD_INLINE U32x16 BitCastU32(F32x16 a) { return {_mm512_castps_si512(a.v)}; }
SIMD_INLINE F32x16 BitCastF32(U32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
SIMD_INLINE U32x16 operator+(U32x16 a, U32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
SIMD_INLINE U32x16 operator-(U32x16 a, U32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
SIMD_INLINE U32x16 operator&(U32x16 a, U32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
SIMD_INLINE U32x16 operator|(U32x16 a, U32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int kBits>
SIMD_INLINE U32x16 ShiftLeft(U32x16 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
SIMD_INLINE U32x16 ShiftRight(U32x16 a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}
template <int kBits>
SIMD_INLINE U32x16 SignedShiftRight(U32x16 a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
SIMD_INLINE F32x16 SignedToFloat(U32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }

SIMD_INLINE F32x16 Abs(F32x16 a) {
  return BitCastF32(BitCastU32(a) & U32x16::Broadcast(0x7FFFFFFFu));
}
SIMD_INLINE Mask16 IsFinite(F32x16 a) {
  return {_mm512_cmp_ps_mask(Abs(a).v, _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ)};
}

SIMD_INLINE F32x16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
SIMD_INLINE void Store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
// REQUIRES: 0 <= n <= 16, here and below.
SIMD_INLINE Mask16 FirstLanes(int n) { return {static_cast<__mmask16>((1u << n) - 1u)}; }
SIMD_INLINE uint32_t MaskBits(Mask16 a) { return a.v; }
SIMD_INLINE F32x16 LoadFirst(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(FirstLanes(n).v, p)};
}
SIMD_INLINE void StoreFirst(float* p, F32x16 a, int n) {
  _mm512_mask_storeu_ps(p, FirstLanes(n).v, a.v);
}
SIMD_INLINE F32x16 LoadHalf(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
SIMD_INLINE void StoreHalfFinite(uint16_t* p, F32x16 a) {
  const __mmask16 ordered = _mm512_cmp_ps_mask(a.v, a.v, _CMP_ORD_Q);
  const __m512 limit = _mm512_set1_ps(65504.0f);
  const __m512 clamped =
      _mm512_max_ps(_mm512_min_ps(a.v, limit), _mm512_sub_ps(_mm512_setzero_ps(), limit));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(_mm512_maskz_mov_ps(ordered, clamped),
                                      _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

SIMD_INLINE float ReduceAdd(F32x16 a) {
  const __m256 high = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 r8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), high);
  const __m128 r4 = _mm_add_ps(_mm256_castps256_ps128(r8), _mm256_extractf128_ps(r8, 1));
  const __m128 r2 = _mm_add_ps(r4, _mm_movehl_ps(r4, r4));
  return _mm_cvtss_f32(_mm_add_ss(r2, _mm_movehdup_ps(r2)));
}
SIMD_INLINE float ReduceMax(F32x16 a) {
  const __m256 high = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 r8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), high);
  const __m128 r4 = _mm_max_ps(_mm256_castps256_ps128(r8), _mm256_extractf128_ps(r8, 1));
  const __m128 r2 = _mm_max_ps(r4, _mm_movehl_ps(r4, r4));
  return _mm_cvtss_f32(_mm_max_ss(r2, _mm_movehdup_ps(r2)));
}

}  // namespace
}  // namespace tessera
