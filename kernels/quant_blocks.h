#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/dtype.h"

namespace tessera {

inline constexpr int kQuantBlock = 32;  // elements; activations are quantised in blocks of it too

// 32 consecutive elements of a quantised row, taken apart. What the file packs into bits stands
// here as plain integers; `DequantizeBlock` says what they mean.
struct QuantBlock {
  std::array<int8_t, kQuantBlock> q = {};  // less the format's offset: Q4_0 holds -8..7
  uint16_t d_half = 0;                     // f16 bits; K-quants: of the block of 256
  uint16_t m_half = 0;                     // Q4_1, Q5_1: the minimum; Q4_K, Q5_K: dmin
  std::array<int8_t, 2> scale = {1, 1};    // K-quants: multiply d, for elements 0-15 and 16-31
  uint8_t min = 0;                         // Q4_K, Q5_K: multiplies dmin
};

// How a block is multiplied: element i stands for d[i / 16] * q[i] + m.
struct BlockScales {
  std::array<float, 2> d = {};
  float m = 0.0f;  // 0 unless HasMinimum(type)
};

constexpr bool HasMinimum(DType type) {
  return type == DType::kQ4_1 || type == DType::kQ5_1 || type == DType::kQ4_K ||
         type == DType::kQ5_K;
}

// Block `index` (of 32 elements, whatever the format's own block) of a row in the file's format.
// REQUIRES: IsQuantized(type).
QuantBlock DecodeQuantBlock(DType type, const std::byte* row, int64_t index);

// All products here are exact in fp32: d has 11 significant bits, scale and min at most 8.
BlockScales ScalesOf(DType type, const QuantBlock& block);

void DequantizeBlock(DType type, const QuantBlock& block, float* out);

}  // namespace tessera
