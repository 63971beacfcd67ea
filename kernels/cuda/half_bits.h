#pragma once

#include <bit>
#include <cstdint>

// The 16-bit float formats by their bits, as the device's cvt instructions convert: to nearest
// even, past the largest finite value to infinity, any NaN to 0x7FFF. Host code; kernels have
// ToFloat and FromFloat in instr.h.

namespace tessera {

constexpr float Bf16BitsToFloat(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

constexpr uint16_t FloatToBf16Bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

constexpr float Fp16BitsToFloat(uint16_t bits) {
  const uint32_t magnitude = (uint32_t{bits} & 0x7FFFu) << 13;
  // Moving the exponent's bias from 15 to 127 by a product also normalises subnormals.
  uint32_t value = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  if (magnitude >= (0x7C00u << 13)) value |= 0x7F800000u;
  return std::bit_cast<float>(value | (uint32_t{bits} & 0x8000u) << 16);
}

constexpr uint16_t FloatToFp16Bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7F800000u) return 0x7FFF;
  if (magnitude >= 0x477FF000u) return sign | 0x7C00;  // 65520 and more round to infinity
  if (magnitude < 0x38800000u) {                       // below 2^-14: a multiple of 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;  // ulp of [0.5, 1) is 2^-24
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000u));
  }
  const uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

}  // namespace tessera
