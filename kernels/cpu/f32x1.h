#pragma once

// Part of kernels/cpu/simd.h: include that. One lane.

namespace tessera {
namespace {

struct Mask1 {
  bool v;
};

struct U32x1 {
  uint32_t v;
  SIMD_INLINE static U32x1 Broadcast(uint32_t x) { return {x}; }
};

struct F32x1 {
  using Uint = U32x1;
  using Mask = Mask1;
  float v;
  SIMD_INLINE static F32x1 Broadcast(float x) { return {x}; }
  SIMD_INLINE static F32x1 Zero() { return {0.0f}; }
};

SIMD_INLINE F32x1 operator+(F32x1 a, F32x1 b) { return {a.v + b.v}; }
SIMD_INLINE F32x1 operator-(F32x1 a, F32x1 b) { return {a.v - b.v}; }
SIMD_INLINE F32x1 operator*(F32x1 a, F32x1 b) { return {a.v * b.v}; }
SIMD_INLINE F32x1 operator/(F32x1 a, F32x1 b) { return {a.v / b.v}; }
// Exactly rounded: an instruction where the flags have one, else libm's fmaf.
SIMD_INLINE F32x1 Fma(F32x1 a, F32x1 b, F32x1 c) { return {__builtin_fmaf(a.v, b.v, c.v)}; }
SIMD_INLINE F32x1 Min(F32x1 a, F32x1 b) { return {a.v < b.v ? a.v : b.v}; }
SIMD_INLINE F32x1 Max(F32x1 a, F32x1 b) { return {a.v > b.v ? a.v : b.v}; }
SIMD_INLINE F32x1 Sqrt(F32x1 a) { return {_mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(a.v)))}; }

SIMD_INLINE Mask1 Less(F32x1 a, F32x1 b) { return {a.v < b.v}; }
SIMD_INLINE Mask1 LessEqual(F32x1 a, F32x1 b) { return {a.v <= b.v}; }
SIMD_INLINE Mask1 Equal(F32x1 a, F32x1 b) { return {a.v == b.v}; }
SIMD_INLINE Mask1 And(Mask1 a, Mask1 b) { return {a.v && b.v}; }
SIMD_INLINE Mask1 Or(Mask1 a, Mask1 b) { return {a.v || b.v}; }
SIMD_INLINE Mask1 Not(Mask1 a) { return {!a.v}; }
SIMD_INLINE F32x1 Select(Mask1 mask, F32x1 a, F32x1 b) { return mask.v ? a : b; }

SIMD_INLINE U32x1 BitCastU32(F32x1 a) { return {__builtin_bit_cast(uint32_t, a.v)}; }
SIMD_INLINE F32x1 BitCastF32(U32x1 a) { return {__builtin_bit_cast(float, a.v)}; }
SIMD_INLINE U32x1 operator+(U32x1 a, U32x1 b) { return {a.v + b.v}; }
SIMD_INLINE U32x1 operator-(U32x1 a, U32x1 b) { return {a.v - b.v}; }
SIMD_INLINE U32x1 operator&(U32x1 a, U32x1 b) { return {a.v & b.v}; }
SIMD_INLINE U32x1 operator|(U32x1 a, U32x1 b) { return {a.v | b.v}; }
template <int kBits>
SIMD_INLINE U32x1 ShiftLeft(U32x1 a) {
  return {a.v << kBits};
}
template <int kBits>
SIMD_INLINE U32x1 ShiftRight(U32x1 a) {
  return {a.v >> kBits};
}
template <int kBits>
SIMD_INLINE U32x1 SignedShiftRight(U32x1 a) {
  return {static_cast<uint32_t>(static_cast<int32_t>(a.v) >> kBits)};
}
SIMD_INLINE F32x1 SignedToFloat(U32x1 a) { return {static_cast<float>(static_cast<int32_t>(a.v))}; }

SIMD_INLINE F32x1 Abs(F32x1 a) { return BitCastF32(BitCastU32(a) & U32x1{0x7FFFFFFFu}); }
SIMD_INLINE Mask1 IsFinite(F32x1 a) { return {(BitCastU32(a).v & 0x7F800000u) != 0x7F800000u}; }

}  // namespace
}  // namespace tessera
