#pragma once

#include <cfloat>
#include <cstdint>

// Constants of docs/sampling.md that every backend's sampler shares.

namespace tessera {

inline constexpr float kGreedyTemperature = 1e-5f;  // below it: argmax
inline constexpr float kMaxScore = FLT_MAX;         // scores saturate at +-this
inline constexpr float kLog2E = 0x1.715476p+0f;

// Mass of a token: floor(2^40 * exp2((score - max) * kLog2E)), so that sums are exact in any order.
inline constexpr int kMassBits = 40;
inline constexpr double kMassOfMax = 0x1p40;

// Uniform of a random word: ((word >> kWordShift) + 0.5) * kUniformScale, exact and inside (0, 1).
inline constexpr int kWordShift = 9;
inline constexpr float kUniformScale = 0x1p-23f;

}  // namespace tessera
