#include "kernels/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/quant_blocks.h"

namespace tessera {
namespace {

constexpr uint32_t kHalfMaxBits = 0x7BFF;  // 65504
constexpr float kHalfOverflow = 65520.0f;  // the first value that would round to infinity
constexpr float kHalfMinNormal = 0x1p-14f;
constexpr float kHalfMinSubnormal = 0x1p-24f;

template <typename T>
T LoadElement(const std::byte* row, int64_t index) {
  T value;
  std::memcpy(&value, row + index * static_cast<int64_t>(sizeof(T)), sizeof value);
  return value;
}

// Drops the low `count` bits of a magnitude, rounding to nearest even.
uint32_t RoundShift(uint32_t value, int count) {
  const uint32_t lowest_kept = (value >> count) & 1;
  return (value + (uint32_t{1} << (count - 1)) - 1 + lowest_kept) >> count;
}

}  // namespace

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1F;
  const uint32_t mantissa = half & 0x3FF;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * kHalfMinSubnormal;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  const uint32_t wide_exponent = exponent == 31 ? 255 : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (wide_exponent << 23) | (mantissa << 13));
}

uint16_t FloatToHalfFinite(float value) {
  if (std::isnan(value)) return 0;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const float magnitude = std::fabs(value);
  uint32_t half = 0;
  if (magnitude >= kHalfOverflow) {
    half = kHalfMaxBits;
  } else if (magnitude >= kHalfMinNormal) {
    half = RoundShift((bits & 0x7FFFFFFF) - (uint32_t{127 - 15} << 23), 13);
  } else {
    // From 0.5 on, floats step by 2^-24 as f16's subnormals do: the addition rounds.
    half = std::bit_cast<uint32_t>(magnitude + 0.5f) - std::bit_cast<uint32_t>(0.5f);
  }
  return static_cast<uint16_t>(sign | half);
}

float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

void DequantizeRow(DType type, const std::byte* row, int64_t num_elements, float* out) {
  if (IsQuantized(type)) {
    for (int64_t block = 0; block < num_elements / kQuantBlock; ++block) {
      DequantizeBlock(type, DecodeQuantBlock(type, row, block), out + block * kQuantBlock);
    }
    return;
  }
  for (int64_t i = 0; i < num_elements; ++i) {
    out[i] = type == DType::kF32   ? LoadElement<float>(row, i)
             : type == DType::kF16 ? HalfToFloat(LoadElement<uint16_t>(row, i))
                                   : Bf16ToFloat(LoadElement<uint16_t>(row, i));
  }
}

}  // namespace tessera
