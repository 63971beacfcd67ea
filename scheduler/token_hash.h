#pragma once

#include <cstdint>

namespace tessera {

// The finalizer of MurmurHash3 over what was hashed so far and one value more. For tables that
// compare what they find: speed matters, quality hardly.
inline uint64_t MixHash(uint64_t hash, uint64_t value) {
  uint64_t x = (hash ^ value) * 0xFF51AFD7ED558CCDu;
  x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53u;
  return x ^ (x >> 33);
}

}  // namespace tessera
