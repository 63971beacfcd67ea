#pragma once

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sample.h"

// What the parts of the sampler share: one block of threads takes one row, and every thread comes
// to know the result of each of these functions.

namespace tessera::TESSERA_CUDA_NAMESPACE {

inline constexpr int kSampleThreads = 1024;
inline constexpr int kSampleWarps = kSampleThreads / 32;
inline constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// Calls body(i) for this thread's share of [0, size).
template <typename Body>
__device__ __forceinline__ void ForEachIndex(int size, const Body& body) {
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kSampleThreads) body(i);
}

// Unsigned integers in the order of floats; both zeros are one. Not for NaN.
__device__ __forceinline__ uint32_t OrderedKey(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);  // -0 + 0 = +0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float FromOrderedKey(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7FFFFFFFu : ~key);
}

inline constexpr uint32_t kNonFiniteKey = 0xFFFFFFFFu;  // above every number's
inline constexpr uint32_t kMaskedKey = 0x007FFFFFu;     // of -infinity

__device__ __forceinline__ uint32_t BlockMax(uint32_t value) {
  TESSERA_SHARED(uint32_t[kSampleWarps], maxima);
  value = __reduce_max_sync(kAllLanes, value);
  __syncthreads();  // the last result's readers are done
  if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = value;
  __syncthreads();
  return __reduce_max_sync(kAllLanes, maxima[threadIdx.x % 32]);
}

template <typename Combine>
__device__ __forceinline__ uint64_t BlockReduce64(uint64_t value, uint64_t* warps,
                                                  const Combine& combine) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = warps[threadIdx.x % 32];
  for (int offset = 16; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

__device__ __forceinline__ uint64_t BlockSum64(uint64_t value) {
  TESSERA_SHARED(uint64_t[kSampleWarps], sums);
  return BlockReduce64(value, sums, [](uint64_t a, uint64_t b) { return a + b; });
}

__device__ __forceinline__ uint64_t BlockMax64(uint64_t value) {
  TESSERA_SHARED(uint64_t[kSampleWarps], maxima);
  return BlockReduce64(value, maxima, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}

// A row's scores; -infinity is masked.
struct Scores {
  const float* values;
  int size;
  float max;
};

// A prefix of the order (score descending, id ascending), named by its last element.
struct Cutoff {
  float score;
  TokenId token;

  __device__ bool Keeps(float other_score, TokenId other) const {
    return other_score > score || (other_score == score && other <= token);
  }
};

__device__ __forceinline__ Cutoff NoCutoff() { return {-kMaxScore, 0x7FFFFFFF}; }

// The lowest id of those that score `value`.
__device__ __forceinline__ TokenId FirstEqual(const Scores& scores, float value) {
  uint32_t best = 0;
  ForEachIndex(scores.size, [&](int i) {
    if (scores.values[i] == value) best = max(best, ~static_cast<uint32_t>(i));
  });
  return static_cast<TokenId>(~BlockMax(best));
}

// The sum of the masses of those that `cutoff` keeps.
__device__ __forceinline__ uint64_t SumMasses(const Scores& scores, const Cutoff& cutoff) {
  uint64_t sum = 0;
  ForEachIndex(scores.size, [&](int i) {
    const float score = scores.values[i];
    if (cutoff.Keeps(score, i)) sum += MassOf(score, scores.max);
  });
  return BlockSum64(sum);
}

__device__ __forceinline__ uint64_t CeilToInteger(double x) {
  const auto floor = static_cast<uint64_t>(x);
  return floor + (static_cast<double>(floor) < x ? 1 : 0);
}

__device__ __forceinline__ float LogOfMass(double mass) {
  return Log(static_cast<float>(mass / kMassOfMax));
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
