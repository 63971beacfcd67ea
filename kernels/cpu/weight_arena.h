#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tessera {

// Memory for a model's matrices, side by side on huge pages: a step streams them all, and one of a
// small model is too small for a 2 MB page of its own. A chunk lives as long as the arena or a
// block of it. Owned and used by one thread; blocks may be read and freed by any.
class WeightArena {
 public:
  // Zeroed, 64-byte aligned.
  std::shared_ptr<uint8_t> Allocate(size_t size_bytes);

 private:
  std::shared_ptr<uint8_t> chunk_;  // the newest
  size_t chunk_bytes_ = 0;
  size_t used_bytes_ = 0;
};

}  // namespace tessera
