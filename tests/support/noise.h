#pragma once

#include <cstdint>

namespace tessera {

// Numbers of zero mean and unit variance, uniform, and cheaper than a normal distribution.
class Noise {
 public:
  explicit Noise(uint32_t seed) : state_(seed) {}
  float operator()() {
    state_ = state_ * 1664525u + 1013904223u;
    return (static_cast<float>(state_ >> 8) * 0x1p-23f - 1.0f) * 1.7320508f;
  }

 private:
  uint32_t state_;
};

}  // namespace tessera
