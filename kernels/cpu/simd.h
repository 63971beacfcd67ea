#pragma once

// The virtual vector of docs/numerics.md: 16 lanes of fp32, the same bits on every path. A source
// file gets the widest path that its own compile flags allow. Kernels are written once against
// these names in a header, which xxx_portable.cc, xxx_avx2.cc and xxx_avx512.cc include.
//
// Everything here has internal linkage, and kernel headers must keep to that too: the linker may
// otherwise hand AVX-512 code of a shared (weak) function to a machine without those instructions.
//
//   F32x16, U32x16, Mask16   16 lanes of float, uint32_t, bool
//   F32x1, U32x1, Mask1      one lane with the same operations, for scalar use of templates
//
// Operations on both widths (V is F32x16 or F32x1, U its uint32_t vector, M its mask):
//   V::Broadcast(x), V::Zero(); + - * / and Fma(a, b, c) = a * b + c, Sqrt: each rounded once
//   Min, Max: x86's: the second operand where either is NaN
//   Abs, Less, LessEqual, Equal (false on NaN), IsFinite; And, Or, Not of masks
//   Select(mask, a, b): a where mask is set, else b
//   BitCastU32(V), BitCastF32(U); U: +, -, &, |, ShiftLeft<n>, ShiftRight<n>, SignedShiftRight<n>
//   SignedToFloat(U): the lanes as int32_t, rounded to nearest
// On F32x16 alone:
//   Load, Store; LoadFirst, StoreFirst(pointer, n lanes; loads give 0 beyond)
//   LoadHalf, StoreHalfFinite (fp16; saturates to +-65504, NaN becomes 0)
//   FirstLanes(n), MaskBits(mask): lane j is bit j
//   ReduceAdd, ReduceMax: lanes j and j + 8 first, then 4, 2, 1

#include <immintrin.h>

#include <cstdint>

// The portable path has no speed goal: forcing its 16-lane loops inline would take minutes to
// build.
#if defined(__AVX2__)
#define SIMD_INLINE [[gnu::always_inline]] inline
#else
#define SIMD_INLINE inline
#endif

#include "kernels/cpu/f32x1.h"

#if defined(__AVX512F__)
#include "kernels/cpu/f32x16_avx512.h"
#elif defined(__AVX2__)
#include "kernels/cpu/f32x16_avx2.h"
#else
#include "kernels/cpu/f32x16_portable.h"
#endif
