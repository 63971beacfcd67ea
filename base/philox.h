#pragma once

#include <array>
#include <cstdint>

namespace tessera {

// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011). A pure function: no state to keep, restore or replay.
std::array<uint32_t, 4> Philox(uint64_t key, std::array<uint32_t, 4> counter);

// The fourth counter word says what a draw is for, so that no two uses share a draw.
enum class PhiloxPurpose : uint32_t { kSample = 0, kFork = 1 };

// The seed of sequence `index` of a request with n > 1; sequence 0 uses the seed itself. Derived
// seeds keep to 53 bits, which JSON numbers hold exactly.
uint64_t ForkSeed(uint64_t seed, int index);

inline constexpr uint64_t kSeedMask = (uint64_t{1} << 53) - 1;

}  // namespace tessera
