#pragma once

#include <immintrin.h>

#include "kernels/cpu/linear_simd.h"

namespace tessera {
namespace {

// The vectors of linear_simd.h on AVX-512 F, BW, DQ and VL.
struct Avx512 {
  using Int = __m512i;
  using Float = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kNumRegisters = 32;
  static constexpr int kTileRows = 8;
  static constexpr int kUnpackedBlocks = kMaxUnpackedBlocks;
  static constexpr int kPrefetchBytes = 2560;

  static constexpr int GroupsAtOnce(int /*rows*/) { return 2; }

  static KERNEL_INLINE Int Zero() { return _mm512_setzero_si512(); }
  static KERNEL_INLINE Int Set16(int16_t value) { return _mm512_set1_epi16(value); }
  static KERNEL_INLINE Int LoadInt(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static KERNEL_INLINE Int LoadInt8As16(const uint8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)));
  }
  static KERNEL_INLINE Int BroadcastPair(const int16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static KERNEL_INLINE void StoreInt(Int v, uint8_t* p) { _mm512_storeu_si512(p, v); }

  static KERNEL_INLINE Int And(Int a, Int b) { return _mm512_and_si512(a, b); }
  static KERNEL_INLINE Int Or(Int a, Int b) { return _mm512_or_si512(a, b); }
  static KERNEL_INLINE Int Sub16(Int a, Int b) { return _mm512_sub_epi16(a, b); }
  static KERNEL_INLINE Int Add32(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static KERNEL_INLINE Int Max32(Int a, Int b) { return _mm512_max_epi32(a, b); }
  template <int kCount>
  static KERNEL_INLINE Int ShiftLeft16(Int v) {
    return _mm512_slli_epi16(v, kCount);
  }
  template <int kCount>
  static KERNEL_INLINE Int ShiftRight16(Int v) {
    return _mm512_srli_epi16(v, kCount);
  }
  template <int kCount>
  static KERNEL_INLINE Int ShiftRightSigned16(Int v) {
    return _mm512_srai_epi16(v, kCount);
  }

  // The empty asm keeps GCC from reassociating the sums, which costs it registers.
  static KERNEL_INLINE Int DotAdd(Int sum, Int w, Int x) {
    Int result = _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
    __asm__("" : "+v"(result));
    return result;
  }

  static KERNEL_INLINE Float Broadcast(float value) { return _mm512_set1_ps(value); }
  static KERNEL_INLINE Float LoadFloat(const uint8_t* p) { return _mm512_loadu_ps(p); }
  static KERNEL_INLINE Float LoadFloat(const float* p) { return _mm512_loadu_ps(p); }
  static KERNEL_INLINE Float LoadHalf(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)));
  }
  static KERNEL_INLINE Float LoadBf16(const uint8_t* p) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  static KERNEL_INLINE Float LoadUint8(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
  }
  static KERNEL_INLINE Float LoadInt8(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  }
  static KERNEL_INLINE void StoreFloat(Float v, float* p) { _mm512_storeu_ps(p, v); }
  static KERNEL_INLINE void StoreFloat(Float v, uint8_t* p) { _mm512_storeu_ps(p, v); }
  static KERNEL_INLINE Float ToFloat(Int v) { return _mm512_cvtepi32_ps(v); }
  static KERNEL_INLINE Float Mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static KERNEL_INLINE Float Fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static KERNEL_INLINE Float Negate(Float v) { return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f)); }

  static KERNEL_INLINE Int MagnitudeBits(const float* p) {
    return _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(p)), _mm512_set1_epi32(0x7FFFFFFF));
  }
  static KERNEL_INLINE Int RoundToInt(Float v) { return _mm512_cvtps_epi32(v); }
  template <DType>
  static KERNEL_INLINE Int ToFactors(Int pairs) {
    return pairs;
  }
  static KERNEL_INLINE void StoreQuants(Int v, int i, int16_t* q) {
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(q + i), _mm512_cvtepi32_epi16(v));
  }
  static KERNEL_INLINE uint32_t ReduceMax32(Int v) {
    return static_cast<uint32_t>(_mm512_reduce_max_epi32(v));
  }
  static KERNEL_INLINE int ReduceAdd32(Int v) { return _mm512_reduce_add_epi32(v); }
  static KERNEL_INLINE void Prefetch(const uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }
};

}  // namespace
}  // namespace tessera
