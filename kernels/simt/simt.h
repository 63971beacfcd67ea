#pragma once

// CUDA's dialect for kernels that a host C++ compiler compiles: what kernels/cuda/*.cu may use
// without <cuda_runtime.h>. kernels/cuda/world.h includes the one or the other.
//
// kernels/simt/ runs such kernels on the CPU, every lane a fiber (block.h), in an order that a seed
// decides, with shared memory poisoned and guarded (shared_memory.h), device memory likewise
// (device.h), and cp.async, ldmatrix and mma.sync at the level of their meaning (matrix_ops.h). It
// proves indexing, masks, layouts, barriers and waits. It cannot prove what follows from the memory
// model (all lanes of a block share one host thread), nor the rounding inside the tensor cores, nor
// speed.
//
// Static shared memory is declared by TESSERA_SHARED, dynamic shared memory by DynamicShared (both
// in kernels/cuda/instr.h): there is no __shared__ here, since memory declared by the compiler
// could be neither poisoned nor guarded.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/simt/block.h"
#include "kernels/simt/vector_types.h"

// NOLINTBEGIN(bugprone-reserved-identifier): these names are CUDA's.

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

#define threadIdx (::tessera::simt::Block::Current().lane().thread_index)
#define blockIdx (::tessera::simt::Block::Current().block_index())
#define blockDim (::tessera::simt::Block::Current().launch().block)
#define gridDim (::tessera::simt::Block::Current().launch().grid)

// Where a wrapper is called from. Default arguments, so that the line is the caller's.
#define TESSERA_SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace tessera::simt {

// What one lane gives to a shuffle: its value, and the lane whose value it wants.
template <typename T>
struct ShuffleInput {
  T value;
  int source;
};

template <typename T>
void ShuffleWarp(WarpArguments& arguments, uint32_t participants) {
  for (uint32_t rest = participants; rest != 0; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    const int source = static_cast<const ShuffleInput<T>*>(arguments.in[lane])->source;
    if ((participants >> source & 1) == 0) {
      Block::Current().Fail("lane " + std::to_string(lane) + " shuffles from lane " +
                            std::to_string(source) + ", which takes no part");
    }
    std::memcpy(arguments.out[lane],
                &static_cast<const ShuffleInput<T>*>(arguments.in[source])->value, sizeof(T));
  }
}

template <typename T>
T Shuffle(const CallSite& site, uint32_t mask, T value, int source) {
  static_assert(std::is_arithmetic_v<T>);
  const ShuffleInput<T> in{value, source};
  T out;
  Block::Current().Collective(site, mask, &in, &out, &ShuffleWarp<T>);
  return out;
}

inline int CurrentLane() { return Block::Current().lane().lane; }
inline int SegmentBegin(int width) { return CurrentLane() & ~(width - 1); }

// Every lane's 32-bit value combined by Combine, which is associative and commutative.
template <uint32_t (*Combine)(uint32_t, uint32_t)>
void ReduceWarp(WarpArguments& arguments, uint32_t participants) {
  uint32_t total = *static_cast<const uint32_t*>(arguments.in[std::countr_zero(participants)]);
  for (uint32_t rest = participants & (participants - 1); rest != 0; rest &= rest - 1) {
    total = Combine(total, *static_cast<const uint32_t*>(arguments.in[std::countr_zero(rest)]));
  }
  for (uint32_t rest = participants; rest != 0; rest &= rest - 1) {
    *static_cast<uint32_t*>(arguments.out[std::countr_zero(rest)]) = total;
  }
}

template <uint32_t (*Combine)(uint32_t, uint32_t)>
uint32_t Reduce(const CallSite& site, uint32_t mask, uint32_t value) {
  uint32_t out;
  Block::Current().Collective(site, mask, &value, &out, &ReduceWarp<Combine>);
  return out;
}

inline uint32_t CombineOr(uint32_t a, uint32_t b) { return a | b; }
inline uint32_t CombineAnd(uint32_t a, uint32_t b) { return a & b; }
inline uint32_t CombineXor(uint32_t a, uint32_t b) { return a ^ b; }
inline uint32_t CombineAdd(uint32_t a, uint32_t b) { return a + b; }
inline uint32_t CombineMax(uint32_t a, uint32_t b) { return a > b ? a : b; }
inline uint32_t CombineMin(uint32_t a, uint32_t b) { return a < b ? a : b; }

inline uint32_t CombineMaxSigned(uint32_t a, uint32_t b) {
  return static_cast<int32_t>(a) > static_cast<int32_t>(b) ? a : b;
}
inline uint32_t CombineMinSigned(uint32_t a, uint32_t b) {
  return static_cast<int32_t>(a) < static_cast<int32_t>(b) ? a : b;
}

template <typename T>
concept AtomicInteger = std::is_same_v<T, int> || std::is_same_v<T, unsigned> ||
    std::is_same_v<T, unsigned long long> || std::is_same_v<T, uint64_t>;

// Lanes of a block share one host thread, so a plain update is atomic. Others may run first.
template <AtomicInteger T, typename Update>
T Atomic(T* address, const Update& update) {
  Block::Current().Preempt();
  const T old = *address;
  *address = update(old);
  return old;
}

}  // namespace tessera::simt

inline void __syncthreads(TESSERA_SIMT_SITE) {
  tessera::simt::Block::Current().SyncThreads({"__syncthreads", file, line});
}
inline void __syncwarp(unsigned mask = tessera::simt::kFullWarp, TESSERA_SIMT_SITE) {
  tessera::simt::Block::Current().Collective({"__syncwarp", file, line}, mask, nullptr, nullptr,
                                             nullptr);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, TESSERA_SIMT_SITE) {
  return tessera::simt::Shuffle({"__shfl_sync", file, line}, mask, value,
                                tessera::simt::SegmentBegin(width) + (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, TESSERA_SIMT_SITE) {
  const int lane = tessera::simt::CurrentLane();
  const int source = lane ^ lane_mask;
  const bool inside = source < tessera::simt::SegmentBegin(width) + width;
  return tessera::simt::Shuffle({"__shfl_xor_sync", file, line}, mask, value,
                                inside ? source : lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, TESSERA_SIMT_SITE) {
  const int lane = tessera::simt::CurrentLane();
  const int source = lane - static_cast<int>(delta);
  return tessera::simt::Shuffle({"__shfl_up_sync", file, line}, mask, value,
                                source >= tessera::simt::SegmentBegin(width) ? source : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, TESSERA_SIMT_SITE) {
  const int lane = tessera::simt::CurrentLane();
  const int source = lane + static_cast<int>(delta);
  const bool inside = source < tessera::simt::SegmentBegin(width) + width;
  return tessera::simt::Shuffle({"__shfl_down_sync", file, line}, mask, value,
                                inside ? source : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, TESSERA_SIMT_SITE) {
  return tessera::simt::Reduce<tessera::simt::CombineOr>(
      {"__ballot_sync", file, line}, mask,
      predicate != 0 ? 1u << tessera::simt::CurrentLane() : 0u);
}
inline int __any_sync(unsigned mask, int predicate, TESSERA_SIMT_SITE) {
  return static_cast<int>(tessera::simt::Reduce<tessera::simt::CombineOr>(
      {"__any_sync", file, line}, mask, predicate != 0));
}
inline int __all_sync(unsigned mask, int predicate, TESSERA_SIMT_SITE) {
  return static_cast<int>(tessera::simt::Reduce<tessera::simt::CombineAnd>(
      {"__all_sync", file, line}, mask, predicate != 0));
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, TESSERA_SIMT_SITE) {
  return tessera::simt::Reduce<tessera::simt::CombineAdd>({"__reduce_add_sync", file, line}, mask,
                                                          value);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, TESSERA_SIMT_SITE) {
  return tessera::simt::Reduce<tessera::simt::CombineMax>({"__reduce_max_sync", file, line}, mask,
                                                          value);
}
inline int __reduce_max_sync(unsigned mask, int value, TESSERA_SIMT_SITE) {
  return static_cast<int>(tessera::simt::Reduce<tessera::simt::CombineMaxSigned>(
      {"__reduce_max_sync", file, line}, mask, static_cast<unsigned>(value)));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, TESSERA_SIMT_SITE) {
  return tessera::simt::Reduce<tessera::simt::CombineMin>({"__reduce_min_sync", file, line}, mask,
                                                          value);
}
inline int __reduce_min_sync(unsigned mask, int value, TESSERA_SIMT_SITE) {
  return static_cast<int>(tessera::simt::Reduce<tessera::simt::CombineMinSigned>(
      {"__reduce_min_sync", file, line}, mask, static_cast<unsigned>(value)));
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, TESSERA_SIMT_SITE) {
  return tessera::simt::Reduce<tessera::simt::CombineOr>({"__reduce_or_sync", file, line}, mask,
                                                         value);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, TESSERA_SIMT_SITE) {
  return tessera::simt::Reduce<tessera::simt::CombineAnd>({"__reduce_and_sync", file, line}, mask,
                                                          value);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, TESSERA_SIMT_SITE) {
  return tessera::simt::Reduce<tessera::simt::CombineXor>({"__reduce_xor_sync", file, line}, mask,
                                                          value);
}

template <tessera::simt::AtomicInteger T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return tessera::simt::Atomic(address, [=](T old) { return static_cast<T>(old + value); });
}
template <tessera::simt::AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return tessera::simt::Atomic(address, [=](T old) { return old > value ? old : value; });
}
template <tessera::simt::AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return tessera::simt::Atomic(address, [=](T old) { return old < value ? old : value; });
}
template <tessera::simt::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return tessera::simt::Atomic(address, [=](T old) { return old | value; });
}
template <tessera::simt::AtomicInteger T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return tessera::simt::Atomic(address, [=](T old) { return old & value; });
}
template <tessera::simt::AtomicInteger T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return tessera::simt::Atomic(address, [=](T) { return value; });
}
template <tessera::simt::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return tessera::simt::Atomic(address, [=](T old) { return old == compare ? value : old; });
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>(uint64_t{x} * y >> 32);
}
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }

// Where CUDA has an overload for every arithmetic type.
template <typename T>
requires std::is_integral_v<T>
constexpr T min(T a, T b) { return b < a ? b : a; }
template <typename T>
requires std::is_integral_v<T>
constexpr T max(T a, T b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

// NOLINTEND(bugprone-reserved-identifier)
