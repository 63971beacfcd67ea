#pragma once

#include "kernels/cpu/simd.h"

// Elementary functions of one vector (F32x16, or F32x1 for scalar use), the same bits on every
// path: polynomials evaluated in one order, FMA only by name. A NaN gives a NaN. Maximal errors are
// those that tests/kernels/vector_math_test.cc measures over all exponents.
//
// The coefficients are weighted least-squares fits on Chebyshev nodes, rounded to float one at a
// time, from the constant up, with the rest fitted again after each.

namespace tessera {
namespace {

template <typename V>
SIMD_INLINE V Horner(V, float coefficient) {
  return V::Broadcast(coefficient);
}
// coefficients ascending: c0 + x * (c1 + x * (...)).
template <typename V, typename... Rest>
SIMD_INLINE V Horner(V x, float coefficient, Rest... rest) {
  return Fma(Horner(x, rest...), x, V::Broadcast(coefficient));
}

// Adding it leaves round-to-nearest-even(x) in the low mantissa bits, for |x| < 2^22.
constexpr float kRoundingShift = 12582912.0f;  // 1.5 * 2^23

// 2^(r + n) where shifted = n + kRoundingShift, -0.5 <= r <= 0.5 and -126 <= n <= 128.
template <typename V>
SIMD_INLINE V Exp2Reduced(V r, V shifted) {
  const V p = Horner(r, 1.0f, 0x1.62e430p-1f, 0x1.ebfbe0p-3f, 0x1.c6af72p-5f, 0x1.3b2a48p-7f,
                     0x1.5f0dccp-10f, 0x1.4424b0p-13f);
  const V power = BitCastF32(ShiftLeft<23>(BitCastU32(shifted)) + V::Uint::Broadcast(0x3F800000u));
  return p * power;
}

// 2^x: 0 for x < -126, infinity from x = 127.5, exact for integers. Error below 1 ulp.
template <typename V>
SIMD_INLINE V Exp2(V x) {
  const V clamped = Min(V::Broadcast(128.0f), x);
  const V shifted = clamped + V::Broadcast(kRoundingShift);
  const V r = clamped - (shifted - V::Broadcast(kRoundingShift));
  return Select(Less(x, V::Broadcast(-126.0f)), V::Zero(), Exp2Reduced(r, shifted));
}

// e^x: 0 where that is below 2^-126, infinity from 2^127.5. Error below 1.1 ulp.
template <typename V>
SIMD_INLINE V Exp(V x) {
  const V log2_e = V::Broadcast(0x1.715476p+0f);
  const V clamped = Min(V::Broadcast(88.7f), x);
  const V shifted = Fma(clamped, log2_e, V::Broadcast(kRoundingShift));
  const V n = shifted - V::Broadcast(kRoundingShift);
  const V r = Fma(clamped, V::Broadcast(0x1.4ae0c0p-26f), Fma(clamped, log2_e, V::Zero() - n));
  return Select(Less(x, V::Broadcast(-87.33654f)), V::Zero(), Exp2Reduced(r, shifted));
}

// Natural logarithm of any float, denormals included: -infinity at 0, NaN below. Error below 1 ulp,
// also near 1.
template <typename V>
SIMD_INLINE V Log(V x) {
  using Uint = typename V::Uint;
  const auto tiny = Less(x, V::Broadcast(0x1p-126f));
  const Uint bits = BitCastU32(Select(tiny, x * V::Broadcast(0x1p23f), x));
  // x = 2^e * m with m in [sqrt(1/2), sqrt(2)); 0x3F3504F3 is sqrt(1/2).
  const Uint exponent = SignedShiftRight<23>(bits - Uint::Broadcast(0x3F3504F3u));
  const V f = BitCastF32(bits - ShiftLeft<23>(exponent)) - V::Broadcast(1.0f);
  const V e = SignedToFloat(exponent) - Select(tiny, V::Broadcast(23.0f), V::Zero());

  const V f2 = f * f;
  const V p = Horner(f, 0x1.555546p-2f, -0.25f, 0x1.99a546p-3f, -0x1.555f16p-3f, 0x1.232fe8p-3f,
                     -0x1.fbc1e6p-4f, 0x1.e6f4eep-4f, -0x1.e04a3ap-4f, 0x1.16babcp-4f);
  V tail = Fma(e, V::Broadcast(0x1.7f7d1cp-20f), f * f2 * p);  // ln 2 = 0xB172p-16 + 0x1.7f7d1cp-20
  tail = Fma(V::Broadcast(-0.5f), f2, tail);
  const V log = Fma(e, V::Broadcast(0xB172p-16f), f + tail);

  const V infinity = V::Broadcast(__builtin_inff());
  const V not_positive =
      Select(Equal(x, V::Zero()), V::Zero() - infinity, V::Broadcast(__builtin_nanf("")));
  return Select(Less(V::Zero(), x), Select(Equal(x, infinity), x, log), not_positive);
}

// 1 / (1 + e^-x). Error below 2.5 ulp.
template <typename V>
SIMD_INLINE V Sigmoid(V x) {
  const V one = V::Broadcast(1.0f);
  const V e = Exp(V::Zero() - Abs(x));
  return Select(Less(x, V::Zero()), e, one) / (one + e);
}

// Error below 2 ulp; odd bit for bit.
template <typename V>
SIMD_INLINE V Tanh(V x) {
  using Uint = typename V::Uint;
  const V one = V::Broadcast(1.0f);
  const V a = Abs(x);
  const V a2 = a * a;
  const V p =
      Horner(a2, -0x1.555532p-2f, 0x1.110708p-3f, -0x1.b8395ep-5f, 0x1.521744p-6f, -0x1.75a990p-8f);
  const V small = Fma(a * a2, p, a);
  const V e = Exp(V::Broadcast(-2.0f) * a);
  const V magnitude = Select(Less(a, V::Broadcast(0.625f)), small, (one - e) / (one + e));
  const Uint sign = BitCastU32(x) & Uint::Broadcast(0x80000000u);
  return BitCastF32(BitCastU32(magnitude) | sign);
}

// Scalar use, for a row's single values.
SIMD_INLINE float Exp2(float x) { return Exp2(F32x1{x}).v; }
SIMD_INLINE float Log(float x) { return Log(F32x1{x}).v; }

}  // namespace
}  // namespace tessera
