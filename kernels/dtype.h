#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tessera {

// Element and block formats of weights. The quantised ones are ggml's blocks, byte for byte as a
// GGUF file holds them (ggml-common.h); docs/numerics.md says how each is multiplied.
enum class DType : uint8_t {
  kF32,
  kF16,
  kBf16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K
};

inline constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBf16, DType::kQ8_0,
                                       DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                       DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// Elements a block covers along a row; 1 for the float types.
constexpr int BlockElements(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      return 1;
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ5_0:
    case DType::kQ5_1:
      return 32;
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
      return 256;
  }
  return 0;
}

constexpr int BlockBytes(DType type) {
  switch (type) {
    case DType::kF32:
      return 4;
    case DType::kF16:
    case DType::kBf16:
      return 2;
    case DType::kQ8_0:
      return 34;
    case DType::kQ4_0:
      return 18;
    case DType::kQ4_1:
      return 20;
    case DType::kQ5_0:
      return 22;
    case DType::kQ5_1:
      return 24;
    case DType::kQ4_K:
      return 144;
    case DType::kQ5_K:
      return 176;
    case DType::kQ6_K:
      return 210;
  }
  return 0;
}

constexpr bool IsQuantized(DType type) { return BlockElements(type) > 1; }

// REQUIRES: num_elements is a multiple of BlockElements(type).
constexpr size_t RowBytes(DType type, int64_t num_elements) {
  return static_cast<size_t>(num_elements / BlockElements(type)) *
         static_cast<size_t>(BlockBytes(type));
}

constexpr std::string_view Name(DType type) {
  switch (type) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBf16:
      return "BF16";
    case DType::kQ8_0:
      return "Q8_0";
    case DType::kQ4_0:
      return "Q4_0";
    case DType::kQ4_1:
      return "Q4_1";
    case DType::kQ5_0:
      return "Q5_0";
    case DType::kQ5_1:
      return "Q5_1";
    case DType::kQ4_K:
      return "Q4_K";
    case DType::kQ5_K:
      return "Q5_K";
    case DType::kQ6_K:
      return "Q6_K";
  }
  return "?";
}

}  // namespace tessera
