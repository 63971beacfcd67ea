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

struct SeededIntegerHash {
  uint64_t seed = HashSeed();
  size_t operator()(uint64_t key) const { return XXH3_64bits_withSeed(&key, sizeof(key), seed); }
};

}  // namespace tessera
