#pragma once

#include <span>

namespace tessera {

struct RopeTableParams {
  int num_positions = 0;
  int rope_dim = 0;
  double base = 0;
  double factor = 1;                // positions count 1 / factor
  std::span<const float> divisors;  // [rope_dim / 2] of each pair's frequency; empty: all 1
};

// cos and sin of position * base^(-2 i / rope_dim) / divisor[i] / factor, for pair i of a head.
// cos, sin: [num_positions, rope_dim / 2]. Computed in double by our own functions, so that every
// machine has the same table whatever its libm (docs/numerics.md).
void FillRopeTables(const RopeTableParams& params, float* cos, float* sin);

}  // namespace tessera
