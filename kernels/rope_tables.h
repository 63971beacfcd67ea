#pragma once

#include <cstdint>
#include <span>

namespace tessera {

struct RopeSpec {
  int rope_dim = 0;    // dimensions that rotate, in pairs; even
  double theta = 1e4;  // pair i turns by theta^(-2 i / rope_dim) / divisors[i] a position
  std::span<const float> divisors;  // [rope_dim / 2] (GGUF's rope_freqs.weight); empty: 1
};

// cosines, sines: [num_positions, rope_dim / 2]. Computed in double without libm, so that every
// machine and C library gives the same floats; within 1 ulp of the exact values for positions below
// 2^24. REQUIRES: theta in [1, 1e30); divisors in [0.001, 1e30).
void BuildRopeTables(const RopeSpec& spec, int64_t num_positions, float* cosines, float* sines);

}  // namespace tessera
