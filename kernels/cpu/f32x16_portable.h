#pragma once

// Part of kernels/cpu/simd.h: include that. The contract as plain loops over lanes.

#include "kernels/dequantize.h"

namespace tessera {
namespace {

struct Mask16 {
  bool v[16];
};

struct U32x16 {
  uint32_t v[16];
  SIMD_INLINE static U32x16 Broadcast(uint32_t x) {
    U32x16 r;
    for (uint32_t& lane : r.v) lane = x;
    return r;
  }
};

struct F32x16 {
  using Uint = U32x16;
  using Mask = Mask16;
  float v[16];
  SIMD_INLINE static F32x16 Broadcast(float x) {
    F32x16 r;
    for (float& lane : r.v) lane = x;
    return r;
  }
  SIMD_INLINE static F32x16 Zero() { return Broadcast(0.0f); }
};

SIMD_INLINE F32x16 operator+(F32x16 a, F32x16 b) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] + b.v[j];
  return r;
}
SIMD_INLINE F32x16 operator-(F32x16 a, F32x16 b) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] - b.v[j];
  return r;
}
SIMD_INLINE F32x16 operator*(F32x16 a, F32x16 b) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] * b.v[j];
  return r;
}
SIMD_INLINE F32x16 operator/(F32x16 a, F32x16 b) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] / b.v[j];
  return r;
}
SIMD_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = __builtin_fmaf(a.v[j], b.v[j], c.v[j]);
  return r;
}
SIMD_INLINE F32x16 Min(F32x16 a, F32x16 b) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] < b.v[j] ? a.v[j] : b.v[j];
  return r;
}
SIMD_INLINE F32x16 Max(F32x16 a, F32x16 b) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] > b.v[j] ? a.v[j] : b.v[j];
  return r;
}
SIMD_INLINE F32x16 Sqrt(F32x16 a) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = Sqrt(F32x1{a.v[j]}).v;
  return r;
}

SIMD_INLINE Mask16 Less(F32x16 a, F32x16 b) {
  Mask16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] < b.v[j];
  return r;
}
SIMD_INLINE Mask16 LessEqual(F32x16 a, F32x16 b) {
  Mask16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] <= b.v[j];
  return r;
}
SIMD_INLINE Mask16 Equal(F32x16 a, F32x16 b) {
  Mask16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] == b.v[j];
  return r;
}
SIMD_INLINE Mask16 And(Mask16 a, Mask16 b) {
  Mask16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] && b.v[j];
  return r;
}
SIMD_INLINE Mask16 Or(Mask16 a, Mask16 b) {
  Mask16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] || b.v[j];
  return r;
}
SIMD_INLINE Mask16 Not(Mask16 a) {
  Mask16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = !a.v[j];
  return r;
}
SIMD_INLINE F32x16 Select(Mask16 mask, F32x16 a, F32x16 b) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = mask.v[j] ? a.v[j] : b.v[j];
  return r;
}

SIMD_INLINE U32x16 BitCastU32(F32x16 a) { return __builtin_bit_cast(U32x16, a); }
SIMD_INLINE F32x16 BitCastF32(U32x16 a) { return __builtin_bit_cast(F32x16, a); }
SIMD_INLINE U32x16 operator+(U32x16 a, U32x16 b) {
  U32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] + b.v[j];
  return r;
}
SIMD_INLINE U32x16 operator-(U32x16 a, U32x16 b) {
  U32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] - b.v[j];
  return r;
}
SIMD_INLINE U32x16 operator&(U32x16 a, U32x16 b) {
  U32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] & b.v[j];
  return r;
}
SIMD_INLINE U32x16 operator|(U32x16 a, U32x16 b) {
  U32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] | b.v[j];
  return r;
}
template <int kBits>
SIMD_INLINE U32x16 ShiftLeft(U32x16 a) {
  U32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] << kBits;
  return r;
}
template <int kBits>
SIMD_INLINE U32x16 ShiftRight(U32x16 a) {
  U32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = a.v[j] >> kBits;
  return r;
}
template <int kBits>
SIMD_INLINE U32x16 SignedShiftRight(U32x16 a) {
  U32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = SignedShiftRight<kBits>(U32x1{a.v[j]}).v;
  return r;
}
SIMD_INLINE F32x16 SignedToFloat(U32x16 a) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = SignedToFloat(U32x1{a.v[j]}).v;
  return r;
}

SIMD_INLINE F32x16 Abs(F32x16 a) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = Abs(F32x1{a.v[j]}).v;
  return r;
}
SIMD_INLINE Mask16 IsFinite(F32x16 a) {
  Mask16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = IsFinite(F32x1{a.v[j]}).v;
  return r;
}

SIMD_INLINE F32x16 Load(const float* p) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = p[j];
  return r;
}
SIMD_INLINE void Store(float* p, F32x16 a) {
  for (int j = 0; j < 16; ++j) p[j] = a.v[j];
}
// REQUIRES: 0 <= n <= 16, here and below.
SIMD_INLINE Mask16 FirstLanes(int n) {
  Mask16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = j < n;
  return r;
}
SIMD_INLINE uint32_t MaskBits(Mask16 a) {
  uint32_t bits = 0;
  for (int j = 0; j < 16; ++j) bits |= static_cast<uint32_t>(a.v[j]) << j;
  return bits;
}
SIMD_INLINE F32x16 LoadFirst(const float* p, int n) {
  F32x16 r = F32x16::Zero();
  for (int j = 0; j < n; ++j) r.v[j] = p[j];
  return r;
}
SIMD_INLINE void StoreFirst(float* p, F32x16 a, int n) {
  for (int j = 0; j < n; ++j) p[j] = a.v[j];
}
SIMD_INLINE F32x16 LoadHalf(const uint16_t* p) {
  F32x16 r;
  for (int j = 0; j < 16; ++j) r.v[j] = HalfToFloat(p[j]);
  return r;
}
SIMD_INLINE void StoreHalfFinite(uint16_t* p, F32x16 a) {
  for (int j = 0; j < 16; ++j) p[j] = FloatToHalfFinite(a.v[j]);
}

SIMD_INLINE float ReduceAdd(F32x16 a) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int j = 0; j < width; ++j) a.v[j] = a.v[j] + a.v[j + width];
  }
  return a.v[0];
}
SIMD_INLINE float ReduceMax(F32x16 a) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int j = 0; j < width; ++j) a.v[j] = a.v[j] > a.v[j + width] ? a.v[j] : a.v[j + width];
  }
  return a.v[0];
}

}  // namespace
}  // namespace tessera
