#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/half_bits.h"
#include "kernels/cuda/world.h"
#ifdef TESSERA_SIMT
#include "kernels/simt/matrix_ops.h"
#endif

// Every instruction that C++ has no words for, with its twin for the CPU: the only file with PTX.
// tests/kernels/simt/instr_conformance.cu holds both to the same plain definitions. Kernel sources
// include it, and host code only for the types and their conversions.
//
// Numerics (docs/numerics.md): files build with -fmad=false, so a fused multiply-add and an
// approximation happen only where one of these names stands.

#if defined(TESSERA_SIMT)
#define TESSERA_WARP_SITE , const char *file = __builtin_FILE(), int line = __builtin_LINE()
#else
#define TESSERA_WARP_SITE
#endif

namespace tessera::TESSERA_CUDA_NAMESPACE {

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

template <typename T>
inline constexpr bool kIsHalf = std::is_same_v<T, Bf16> || std::is_same_v<T, Fp16>;

template <typename T>
inline constexpr float kMaxFinite = std::is_same_v<T, Bf16> ? 0x1.FEp127f : 65504.0f;

__host__ __device__ __forceinline__ float ToFloat(Bf16 value) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
#else
  return Bf16BitsToFloat(value.bits);
#endif
}

__host__ __device__ __forceinline__ float ToFloat(Fp16 value) {
#ifdef __CUDA_ARCH__
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  return Fp16BitsToFloat(value.bits);
#endif
}

// To nearest even; past the largest finite value infinity.
template <typename T>
__host__ __device__ __forceinline__ T FromFloat(float value) {
  static_assert(kIsHalf<T>);
  T result;
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, Bf16>) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  } else {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  }
#else
  if constexpr (std::is_same_v<T, Bf16>) {
    result.bits = FloatToBf16Bits(value);
  } else {
    result.bits = FloatToFp16Bits(value);
  }
#endif
  return result;
}

// For stored keys and values: past the largest finite value that value, NaN to 0.
template <typename T>
__host__ __device__ __forceinline__ T FromFloatFinite(float value) {
  const float clamped = fminf(fmaxf(value, -kMaxFinite<T>), kMaxFinite<T>);
  return FromFloat<T>(value == value ? clamped : 0.0f);
}

// Two values rounded to nearest even; low in the low half, which is the lower address.
template <typename T>
__host__ __device__ __forceinline__ uint32_t Pack2(float low, float high) {
  static_assert(kIsHalf<T>);
#ifdef __CUDA_ARCH__
  uint32_t result;
  if constexpr (std::is_same_v<T, Bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  }
  return result;
#else
  return FromFloat<T>(low).bits | static_cast<uint32_t>(FromFloat<T>(high).bits) << 16;
#endif
}

template <typename T>
__host__ __device__ __forceinline__ float2 Unpack2(uint32_t pair) {
  return {ToFloat(T{static_cast<uint16_t>(pair)}), ToFloat(T{static_cast<uint16_t>(pair >> 16)})};
}

#if defined(TESSERA_SIMT) || defined(__CUDACC__)

// ---- Shared memory ----

// The block's dynamic shared memory, as many bytes as Launch was given, aligned to 1,024.
template <typename T = char>
__device__ __forceinline__ T* DynamicShared() {
#ifdef TESSERA_SIMT
  return reinterpret_cast<T*>(simt::Block::Current().shared().dynamic());
#else
  extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
#endif
}

// TESSERA_SHARED(float[32], sums); declares static shared memory, in a kernel or device function.
#ifdef TESSERA_SIMT
#define TESSERA_SHARED(type, name)                                              \
  static char name##_tag;                                                       \
  std::type_identity_t<type>& name = *static_cast<std::type_identity_t<type>*>( \
      ::tessera::simt::Block::Current().shared().Static(&name##_tag, sizeof(type), alignof(type)))
#else
#define TESSERA_SHARED(type, name) __shared__ std::type_identity_t<type> name
#endif

#ifndef TESSERA_SIMT
__device__ __forceinline__ uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
#endif

// ---- Barriers of some of a block's warps ----

// Waits until num_threads (a multiple of 32) have come to barrier 1 to 15, or have only arrived.
__device__ __forceinline__ void NamedBarrierSync(int barrier, int num_threads TESSERA_WARP_SITE) {
#ifdef TESSERA_SIMT
  simt::Block::Current().NamedBarrierSync({"bar.sync", file, line}, barrier, num_threads);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(num_threads) : "memory");
#endif
}

__device__ __forceinline__ void NamedBarrierArrive(int barrier, int num_threads TESSERA_WARP_SITE) {
#ifdef TESSERA_SIMT
  simt::Block::Current().NamedBarrierArrive({"bar.arrive", file, line}, barrier, num_threads);
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(num_threads) : "memory");
#endif
}

// ---- Asynchronous copies from global to shared memory ----

// Copies 16 bytes through L2 only; where valid is false writes zeros and reads nothing (global must
// still be an aligned address). Both addresses are multiples of 16.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool valid = true) {
  const uint32_t num_source_bytes = valid ? 16 : 0;
#ifdef TESSERA_SIMT
  simt::Block::Current().CopyAsync(shared, global, num_source_bytes);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(num_source_bytes)
               : "memory");
#endif
}

// Ends the group of the copies that this thread has begun since the last one; it may be empty.
__device__ __forceinline__ void CopyAsyncCommit() {
#ifdef TESSERA_SIMT
  simt::Block::Current().CommitGroup();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all of this thread's groups but the last kMaxPendingGroups. Other threads see what was
// copied only after a barrier.
template <int kMaxPendingGroups>
__device__ __forceinline__ void CopyAsyncWait() {
#ifdef TESSERA_SIMT
  simt::Block::Current().WaitGroup(kMaxPendingGroups);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kMaxPendingGroups) : "memory");
#endif
}

// ---- Matrix fragments (PTX ISA, "Matrix fragments for mma.m16n8k16") ----

// Lane 8j + r gives the address of row r (16 bytes, aligned) of the 8x8 matrix j. Register j of
// lane l becomes elements (row l / 4, columns 2 (l % 4) and the next) of matrix j; transposed,
// (rows 2 (l % 4) and the next, column l / 4).
__device__ __forceinline__ void LoadMatrix4(uint32_t (&registers)[4],
                                            const void* row TESSERA_WARP_SITE) {
#ifdef TESSERA_SIMT
  simt::LoadMatrix({"ldmatrix.x4", file, line}, registers, row, 4, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(SharedAddress(row)));
#endif
}

__device__ __forceinline__ void LoadMatrix4Transposed(uint32_t (&registers)[4],
                                                      const void* row TESSERA_WARP_SITE) {
#ifdef TESSERA_SIMT
  simt::LoadMatrix({"ldmatrix.x4.trans", file, line}, registers, row, 4, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(SharedAddress(row)));
#endif
}

// Addresses come from lanes 0 to 15.
__device__ __forceinline__ void LoadMatrix2(uint32_t (&registers)[2],
                                            const void* row TESSERA_WARP_SITE) {
#ifdef TESSERA_SIMT
  simt::LoadMatrix({"ldmatrix.x2", file, line}, registers, row, 2, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(registers[0]), "=r"(registers[1])
               : "r"(SharedAddress(row)));
#endif
}

__device__ __forceinline__ void LoadMatrix2Transposed(uint32_t (&registers)[2],
                                                      const void* row TESSERA_WARP_SITE) {
#ifdef TESSERA_SIMT
  simt::LoadMatrix({"ldmatrix.x2.trans", file, line}, registers, row, 2, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(registers[0]), "=r"(registers[1])
               : "r"(SharedAddress(row)));
#endif
}

// c[16][8] += a[16][16] b[16][8], T = Bf16 or Fp16, fp32 accumulators. With g = l / 4, t = l % 4:
//   c: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
//   a: pairs from (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)    b: from (2t, g), (2t + 8,
//   g)
// So ldmatrix.x4 gives a from row-major A, and two n8 tiles of c pack into a k16 a.
template <typename T>
__device__ __forceinline__ void Mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1 TESSERA_WARP_SITE) {
  static_assert(kIsHalf<T>);
#ifdef TESSERA_SIMT
  if constexpr (std::is_same_v<T, Bf16>) {
    simt::MmaBf16({"mma.bf16", file, line}, c, {a, {b0, b1}});
  } else {
    simt::MmaFp16({"mma.f16", file, line}, c, {a, {b0, b1}});
  }
#else
  if constexpr (std::is_same_v<T, Bf16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#endif
}

// ---- Arithmetic by name: exactly rounded ----

__device__ __forceinline__ float FmaRn(float a, float b, float c) {
#ifdef TESSERA_SIMT
  return __builtin_fmaf(a, b, c);
#else
  return __fmaf_rn(a, b, c);
#endif
}

__device__ __forceinline__ float MulRn(float a, float b) {
#ifdef TESSERA_SIMT
  return a * b;
#else
  return __fmul_rn(a, b);
#endif
}

__device__ __forceinline__ float AddRn(float a, float b) {
#ifdef TESSERA_SIMT
  return a + b;
#else
  return __fadd_rn(a, b);
#endif
}

__device__ __forceinline__ float DivRn(float a, float b) {
#ifdef TESSERA_SIMT
  return a / b;
#else
  return __fdiv_rn(a, b);
#endif
}

__device__ __forceinline__ float SqrtRn(float a) {
#ifdef TESSERA_SIMT
  return __builtin_sqrtf(a);
#else
  return __fsqrt_rn(a);
#endif
}

// ---- Approximations by name: not the same bits on the CPU. Maximal errors are PTX's ----

#ifdef TESSERA_SIMT
__forceinline__ float FlushSubnormal(float x) {
  return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}
#endif

// 2^x, 0 below 2^-126. 2 ulp.
__device__ __forceinline__ float Exp2Approx(float x) {
#ifdef TESSERA_SIMT
  return FlushSubnormal(exp2f(x));
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// log2 x, subnormals taken as 0. Absolute error 2^-22 in [0.5, 2], else relative 2^-22.
__device__ __forceinline__ float Log2Approx(float x) {
#ifdef TESSERA_SIMT
  return log2f(FlushSubnormal(x));
#else
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// 1 / x, subnormals taken and given as 0. 1 ulp.
__device__ __forceinline__ float RcpApprox(float x) {
#ifdef TESSERA_SIMT
  return FlushSubnormal(1.0f / FlushSubnormal(x));
#else
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// Relative error 2^-11.
__device__ __forceinline__ float TanhApprox(float x) {
#ifdef TESSERA_SIMT
  return tanhf(x);
#else
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// ---- 16 bytes of global or shared memory at once; addresses are multiples of 16 ----

#ifdef TESSERA_SIMT
__forceinline__ void RequireAligned16(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
    simt::Block::Current().Fail("a 16-byte access to a misaligned address");
  }
}
#endif

__device__ __forceinline__ uint4 Load16(const void* address) {
#ifdef TESSERA_SIMT
  RequireAligned16(address);
#endif
  return *static_cast<const uint4*>(address);
}

__device__ __forceinline__ void Store16(void* address, uint4 value) {
#ifdef TESSERA_SIMT
  RequireAligned16(address);
#endif
  *static_cast<uint4*>(address) = value;
}

// For global data that this kernel reads once and nobody writes meanwhile, such as weights: leaves
// L1 to others.
__device__ __forceinline__ uint4 LoadStreaming16(const void* address) {
#ifdef TESSERA_SIMT
  return Load16(address);
#else
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
#endif
}

// ---- 64-bit atomics by our integer type (CUDA's take unsigned long long) ----

#ifdef TESSERA_SIMT
using AtomicWord = uint64_t;
#else
using AtomicWord = unsigned long long;
#endif

__device__ __forceinline__ uint64_t AtomicAdd64(uint64_t* address, uint64_t value) {
  return atomicAdd(reinterpret_cast<AtomicWord*>(address), value);
}

__device__ __forceinline__ uint64_t AtomicMax64(uint64_t* address, uint64_t value) {
  return atomicMax(reinterpret_cast<AtomicWord*>(address), value);
}

__device__ __forceinline__ uint64_t AtomicCas64(uint64_t* address, uint64_t compare,
                                                uint64_t value) {
  return atomicCAS(reinterpret_cast<AtomicWord*>(address), compare, value);
}

// ---- Arithmetic on pairs ----

// Both sums rounded to nearest even. (By fma: sm_80 has no add of two bf16.)
template <typename T>
__device__ __forceinline__ uint32_t AddPairs(uint32_t a, uint32_t b) {
#ifdef TESSERA_SIMT
  const float2 x = Unpack2<T>(a);
  const float2 y = Unpack2<T>(b);
  return Pack2<T>(x.x + y.x, x.y + y.y);
#else
  uint32_t result;
  if constexpr (std::is_same_v<T, Bf16>) {
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(0x3F803F80u), "r"(b));
  } else {
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
#endif
}

#endif  // defined(TESSERA_SIMT) || defined(__CUDACC__)

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
