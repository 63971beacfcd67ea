#include <immintrin.h>

#include "kernels/cpu/linear_simd.h"

namespace tessera {
namespace {

struct Avx2 {
  using Int = __m256i;
  using Float = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kNumRegisters = 16;
  static constexpr int kTileRows = 6;
  static constexpr int kPrefetchBytes = 2560;
  static constexpr int kUnpackedBlocks = 5;  // 11.5 KB; with 9, 128 rows took 8 % longer

  // With 16 registers: 12 accumulators, two of weights, one of activations, one product.
  static constexpr int GroupsAtOnce(int rows) { return rows <= 2 ? 4 : 2; }

  static KERNEL_INLINE Int Zero() { return _mm256_setzero_si256(); }
  static KERNEL_INLINE Int Set16(int16_t value) { return _mm256_set1_epi16(value); }
  static KERNEL_INLINE Int LoadInt(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p));
  }
  static KERNEL_INLINE Int LoadInt8As16(const uint8_t* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p)));
  }
  static KERNEL_INLINE Int BroadcastPair(const int16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
  }
  static KERNEL_INLINE void StoreInt(Int v, uint8_t* p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(p), v);
  }

  static KERNEL_INLINE Int And(Int a, Int b) { return _mm256_and_si256(a, b); }
  static KERNEL_INLINE Int Or(Int a, Int b) { return _mm256_or_si256(a, b); }
  static KERNEL_INLINE Int Sub16(Int a, Int b) { return _mm256_sub_epi16(a, b); }
  static KERNEL_INLINE Int Add32(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static KERNEL_INLINE Int Max32(Int a, Int b) { return _mm256_max_epi32(a, b); }
  template <int kCount>
  static KERNEL_INLINE Int ShiftLeft16(Int v) {
    return _mm256_slli_epi16(v, kCount);
  }
  template <int kCount>
  static KERNEL_INLINE Int ShiftRight16(Int v) {
    return _mm256_srli_epi16(v, kCount);
  }
  template <int kCount>
  static KERNEL_INLINE Int ShiftRightSigned16(Int v) {
    return _mm256_srai_epi16(v, kCount);
  }

  // The empty asm keeps GCC from reassociating the sums, which costs it registers: 208 instead of
  // 148 GOP/s.
  static KERNEL_INLINE Int DotAdd(Int sum, Int w, Int x) {
    Int result = _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
    __asm__("" : "+x"(result));
    return result;
  }

  static KERNEL_INLINE Float Broadcast(float value) { return _mm256_set1_ps(value); }
  static KERNEL_INLINE Float LoadFloat(const uint8_t* p) { return _mm256_castsi256_ps(LoadInt(p)); }
  static KERNEL_INLINE Float LoadFloat(const float* p) { return _mm256_loadu_ps(p); }
  static KERNEL_INLINE Float LoadHalf(const uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p)));
  }
  static KERNEL_INLINE Float LoadBf16(const uint8_t* p) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
  static KERNEL_INLINE Float LoadUint8(const uint8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
  }
  static KERNEL_INLINE Float LoadInt8(const uint8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  }
  static KERNEL_INLINE void StoreFloat(Float v, float* p) { _mm256_storeu_ps(p, v); }
  static KERNEL_INLINE void StoreFloat(Float v, uint8_t* p) { StoreInt(_mm256_castps_si256(v), p); }
  static KERNEL_INLINE Float ToFloat(Int v) { return _mm256_cvtepi32_ps(v); }
  static KERNEL_INLINE Float Mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static KERNEL_INLINE Float Fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static KERNEL_INLINE Float Negate(Float v) { return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f)); }

  static KERNEL_INLINE Int MagnitudeBits(const float* p) {
    return _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(p)), _mm256_set1_epi32(0x7FFFFFFF));
  }
  static KERNEL_INLINE Int RoundToInt(Float v) { return _mm256_cvtps_epi32(v); }
  template <DType>
  static KERNEL_INLINE Int ToFactors(Int pairs) {
    return pairs;
  }
  static KERNEL_INLINE void StoreQuants(Int v, int i, int16_t* q) {
    const __m128i packed =
        _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i_u*>(q + i), packed);
  }
  static KERNEL_INLINE uint32_t ReduceMax32(Int v) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4E));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xB1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
  }
  static KERNEL_INLINE int ReduceAdd32(Int v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
    return _mm_cvtsi128_si32(s);
  }
  static KERNEL_INLINE void Prefetch(const uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }
};

}  // namespace

constinit const LinearKernels kLinearAvx2 = MakeTable<Avx2>();

}  // namespace tessera
