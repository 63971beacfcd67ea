#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/linear_kernels.h"
#include "kernels/dequantize.h"

// The arithmetic of docs/numerics.md as plain loops: what the SIMD paths must give bit for bit.

namespace tessera {
namespace {

constexpr float kRoundToInteger = 0x1.8p23f;  // adding and subtracting it rounds to nearest even

uint32_t MaxMagnitudeBits(const float* x) {
  uint32_t max_bits = 0;
  for (int i = 0; i < kQuantBlock; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFF;
    if (bits > max_bits) max_bits = bits;
  }
  return max_bits;
}

void QuantizeBlock(const float* x, int16_t* q, float* scale, float* scaled_sum) {
  const uint32_t max_bits = MaxMagnitudeBits(x);
  const float max = std::bit_cast<float>(max_bits);
  const bool is_finite = max_bits < kFloatInfinityBits;
  const bool has_values = is_finite && max >= kTinyActivation;
  const float inverse = has_values ? kActivationMax / max : 0.0f;
  int sum = 0;
  for (int i = 0; i < kQuantBlock; ++i) {
    const float rounded = has_values ? (x[i] * inverse + kRoundToInteger) - kRoundToInteger : 0.0f;
    q[i] = static_cast<int16_t>(rounded);
    sum += q[i];
  }
  *scale = !is_finite   ? std::bit_cast<float>(kFloatNanBits)
           : has_values ? max / kActivationMax
                        : 0.0f;
  *scaled_sum = *scale * static_cast<float>(sum);
}

void Quantize(const float* x, int num_blocks, int64_t q_stride, int64_t scale_stride, int16_t* q,
              float* scale, float* scaled_sum) {
  for (int64_t b = 0; b < num_blocks; ++b) {
    QuantizeBlock(x + b * kQuantBlock, q + b * q_stride, scale + b * scale_stride,
                  scaled_sum + b * scale_stride);
  }
}

int32_t Dot(const int8_t* w, const int16_t* x, int count) {
  int32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += w[i] * x[i];
  return sum;
}

float Accumulate(int32_t dot, float activation_scale, float d, float sum) {
  return std::fma(static_cast<float>(dot) * activation_scale, d, sum);
}

template <DType kType>
void DotPacked(const uint8_t* panel, int num_blocks, const QuantTile& x, float* sums) {
  for (int b = 0; b < num_blocks; ++b) {
    const int16_t* q = x.q + b * kQuantBlock;
    for (int channel = 0; channel < kPanelChannels; ++channel) {
      const QuantBlock block = ReadPanelBlock(kType, panel, channel, b);
      const BlockScales scales = ScalesOf(kType, block);
      float f = sums[channel];
      if (kType == DType::kQ6_K) {
        f = Accumulate(Dot(block.q.data(), q, 16), x.scale[b], scales.d[0], f);
        f = Accumulate(Dot(block.q.data() + 16, q + 16, 16), x.scale[b], scales.d[1], f);
      } else {
        f = Accumulate(Dot(block.q.data(), q, kQuantBlock), x.scale[b], scales.d[0], f);
      }
      if (HasMinimum(kType)) f = std::fma(scales.m, x.scaled_sum[b], f);
      sums[channel] = f;
    }
  }
}

template <DType kType>
void DotFloat(const uint8_t* panel, int64_t cols, const float* x, int64_t /*x_stride*/,
              float* sums) {
  for (int channel = 0; channel < kPanelChannels; ++channel) {
    float f = 0.0f;
    for (int64_t k = 0; k < cols; ++k) {
      const auto* element = reinterpret_cast<const std::byte*>(panel) +
                            (k * kPanelChannels + channel) * BlockBytes(kType);
      float w = 0.0f;
      DequantizeRow(kType, element, 1, &w);
      f = std::fma(w, x[k], f);
    }
    sums[channel] = f;
  }
}

template <DType kType>
constexpr void AddType(LinearKernels* table) {
  if constexpr (IsQuantized(kType)) {
    table->dot_packed[static_cast<int>(kType)][0] = DotPacked<kType>;
  } else {
    table->dot_float[static_cast<int>(kType)][0] = DotFloat<kType>;
  }
}

constexpr LinearKernels MakeTable() {
  LinearKernels table;
  table.tile_rows = 1;
  table.max_direct_rows = std::numeric_limits<int>::max();
  table.quantize = Quantize;
  AddType<DType::kF32>(&table);
  AddType<DType::kF16>(&table);
  AddType<DType::kBf16>(&table);
  AddType<DType::kQ8_0>(&table);
  AddType<DType::kQ4_0>(&table);
  AddType<DType::kQ4_1>(&table);
  AddType<DType::kQ5_0>(&table);
  AddType<DType::kQ5_1>(&table);
  AddType<DType::kQ4_K>(&table);
  AddType<DType::kQ5_K>(&table);
  AddType<DType::kQ6_K>(&table);
  return table;
}

}  // namespace

constinit const LinearKernels kLinearPortable = MakeTable();

}  // namespace tessera
