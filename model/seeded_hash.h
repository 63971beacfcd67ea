#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string_view>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tessera {

// A secret of this process, so that no file can be made whose keys all collide. Hashes made with it
// never leave the process and order nothing.
inline uint64_t HashSeed() {
  static const uint64_t seed = [] {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }();
  return seed;
}

struct SeededStringHash {
  uint64_t seed = HashSeed();
  size_t operator()(std::string_view text) const {
    return XXH3_64bits_withSeed(text.data(), text.size(), seed);
  }
};

// One multiplication of 64 by 64 bits, its halves folded together.
struct SeededIntegerHash {
  uint64_t seed = HashSeed();
  size_t operator()(uint64_t key) const {
    __extension__ using Uint128 = unsigned __int128;
    const Uint128 product = Uint128{key ^ seed} * (kMixer ^ seed);
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }

 private:
  static constexpr uint64_t kMixer = 0x9E3779B97F4A7C15;  // 2^64 / golden ratio
};

}  // namespace tessera
