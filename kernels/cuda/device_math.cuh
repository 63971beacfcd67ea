#pragma once

#include <bit>
#include <cstdint>

#include "base/philox.h"
#include "kernels/cuda/instr.h"
#include "kernels/sampling.h"

// Elementary functions and noise with the CPU's bits (kernels/cpu/vector_math.h, base/philox.h):
// the same polynomials, each operation in the same order. Where bits need not be the CPU's, kernels
// use the approximations of instr.h.

namespace tessera::TESSERA_CUDA_NAMESPACE {

inline constexpr float kInfinity = __builtin_inff();

__device__ __forceinline__ float Horner(float /*x*/, float coefficient) { return coefficient; }
// Coefficients ascending: c0 + x * (c1 + x * (...)).
template <typename... Rest>
__device__ __forceinline__ float Horner(float x, float coefficient, Rest... rest) {
  return FmaRn(Horner(x, rest...), x, coefficient);
}

// Adding it leaves round-to-nearest-even(x) in the low mantissa bits, for |x| < 2^22.
inline constexpr float kRoundingShift = 12582912.0f;  // 1.5 * 2^23

// 2^(r + n) where shifted = n + kRoundingShift, -0.5 <= r <= 0.5 and -126 <= n <= 128.
__device__ __forceinline__ float Exp2Reduced(float r, float shifted) {
  const float p = Horner(r, 1.0f, 0x1.62e430p-1f, 0x1.ebfbe0p-3f, 0x1.c6af72p-5f, 0x1.3b2a48p-7f,
                         0x1.5f0dccp-10f, 0x1.4424b0p-13f);
  return p * __uint_as_float((__float_as_uint(shifted) << 23) + 0x3F800000u);
}

// 2^x: 0 for x < -126, infinity from x = 127.5, exact for integers. Error below 1 ulp.
__device__ __forceinline__ float Exp2(float x) {
  const float clamped = 128.0f < x ? 128.0f : x;
  const float shifted = clamped + kRoundingShift;
  const float power = Exp2Reduced(clamped - (shifted - kRoundingShift), shifted);
  return x < -126.0f ? 0.0f : power;
}

// Natural logarithm of any float: -infinity at 0, NaN below. Error below 1 ulp, also near 1.
__device__ __forceinline__ float Log(float x) {
  const bool tiny = x < 0x1p-126f;
  const uint32_t bits = __float_as_uint(tiny ? x * 0x1p23f : x);
  // x = 2^exponent * m with m in [sqrt(1/2), sqrt(2)); 0x3F3504F3 is sqrt(1/2).
  const int32_t exponent = static_cast<int32_t>(bits - 0x3F3504F3u) >> 23;
  const float f = __uint_as_float(bits - (static_cast<uint32_t>(exponent) << 23)) - 1.0f;
  const float e = static_cast<float>(exponent) - (tiny ? 23.0f : 0.0f);

  const float f2 = f * f;
  const float p = Horner(f, 0x1.555546p-2f, -0.25f, 0x1.99a546p-3f, -0x1.555f16p-3f, 0x1.232fe8p-3f,
                         -0x1.fbc1e6p-4f, 0x1.e6f4eep-4f, -0x1.e04a3ap-4f, 0x1.16babcp-4f);
  float tail = FmaRn(e, 0x1.7f7d1cp-20f, f * f2 * p);  // ln 2 = 0xB172p-16 + 0x1.7f7d1cp-20
  tail = FmaRn(-0.5f, f2, tail);
  const float log = FmaRn(e, 0xB172p-16f, f + tail);

  if (!(0.0f < x)) return x == 0.0f ? -kInfinity : __uint_as_float(0x7FC00000u);
  return x == kInfinity ? x : log;
}

struct PhiloxWords {
  uint32_t word[4];
};

// Words of the draws of tokens 4 * quad .. 4 * quad + 3 at a position.
__device__ __forceinline__ PhiloxWords DrawWords(uint64_t seed, uint64_t position, uint32_t quad) {
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(position);
  uint32_t c1 = static_cast<uint32_t>(position >> 32);
  uint32_t c2 = quad;
  uint32_t c3 = static_cast<uint32_t>(PhiloxPurpose::kSample);
  TESSERA_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Gumbel noise of a word: docs/sampling.md.
__device__ __forceinline__ float NoiseOf(uint32_t word) {
  const float uniform = (static_cast<float>(word >> kWordShift) + 0.5f) * kUniformScale;
  return -Log(-Log(uniform));
}

// floor(2^40 * exp2((score - max) * log2e)); the product with 2^40 is exact.
__device__ __forceinline__ uint64_t MassOf(float score, float max) {
  return static_cast<uint64_t>(Exp2((score - max) * kLog2E) * static_cast<float>(kMassOfMax));
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
