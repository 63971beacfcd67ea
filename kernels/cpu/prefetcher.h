#pragma once

#include <cstdint>

// Internal linkage, since files with their own instruction flags include this (kernels/cpu/simd.h).

namespace tessera {
namespace {

constexpr int kCacheLine = 64;

// How near a line is brought, as __builtin_prefetch counts.
constexpr int kIntoL1 = 3;
constexpr int kIntoL2 = 2;

// Asks for all lines of some memory, evenly in `num_steps`.
template <int kLocality>
class Prefetcher {
 public:
  [[gnu::always_inline]] Prefetcher(const void* data, int64_t num_bytes, int64_t num_steps)
      : next_(static_cast<const char*>(data)),
        end_(next_ + num_bytes),
        lines_a_step_((num_bytes + kCacheLine * num_steps - 1) / (kCacheLine * num_steps)) {}

  [[gnu::always_inline]] void Step() {
    if (next_ >= end_) return;
    for (int64_t i = 0; i < lines_a_step_; ++i, next_ += kCacheLine) {
      __builtin_prefetch(next_, 0, kLocality);
    }
  }

 private:
  const char* next_;
  const char* end_;
  int64_t lines_a_step_;
};

}  // namespace
}  // namespace tessera
