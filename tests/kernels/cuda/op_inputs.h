#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <sstream>
#include <string_view>
#include <vector>

#include "kernels/cuda/gemm_weight.h"
#include "kernels/cuda/half_bits.h"
#include "kernels/cuda/instr.h"
#include "kernels/cuda/runtime.h"
#include "kernels/dequantize.h"
#include "tests/kernels/simt/conformance.h"

// Inputs of op tests. Every value differs from zero and its neighbours.

namespace tessera::conformance {

using namespace tessera::TESSERA_CUDA_NAMESPACE;

// Half a unit in the last place of [1, 2), the largest relative error of rounding to T.
template <typename T>
inline constexpr double kUnitRoundoff = std::is_same_v<T, Bf16> ? 0x1p-8 : 0x1p-11;
inline constexpr double kUnitRoundoffF32 = 0x1p-24;

// The largest error of rounding `exact` to T: fp16 has multiples of 2^-24 below 2^-14.
template <typename T>
double RoundingBound(double exact) {
  const double relative = std::fabs(exact) * kUnitRoundoff<T>;
  return std::is_same_v<T, Fp16> ? std::fmax(relative, 0x1p-25) : relative;
}

inline void ExpectNear(Checker& checker, double got, double want, double bound,
                       std::string_view what, size_t index) {
  if (std::fabs(got - want) <= bound) return;
  std::ostringstream message;
  message << what << "[" << index << "]: got " << got << ", expected " << want << " within "
          << bound;
  checker.Expect(false, message.str());
}

inline std::vector<float> RandomFloats(size_t size, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

template <typename T>
std::vector<T> Rounded(const std::vector<float>& values) {
  std::vector<T> rounded;
  for (const float value : values) rounded.push_back(FromFloat<T>(value));
  return rounded;
}

template <typename T>
std::vector<float> Widened(const std::vector<T>& values) {
  std::vector<float> widened;
  for (const T value : values) widened.push_back(ToFloat(value));
  return widened;
}

// The bytes of a row that hold f16 scales, by block.
inline std::vector<int> HalfOffsets(DType type) {
  switch (type) {
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ6_K:
      return {208};
    default:
      return {0};
  }
}

// A weight's rows in a file's format, and what they stand for.
struct FileWeight {
  DType type = DType::kF32;
  int rows = 0;
  int cols = 0;
  std::vector<std::byte> bytes;

  std::vector<float> Dequantized() const {
    std::vector<float> values(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    for (int row = 0; row < rows; ++row) {
      DequantizeRow(type, bytes.data() + static_cast<size_t>(row) * RowBytes(type, cols), cols,
                    values.data() + int64_t{row} * cols);
    }
    return values;
  }
};

inline FileWeight RandomWeight(DType type, int rows, int cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.1f);
  FileWeight weight{type, rows, cols, {}};
  weight.bytes.resize(static_cast<size_t>(rows) * RowBytes(type, cols));
  const auto put = [&](size_t offset, const void* value, size_t size) {
    std::memcpy(weight.bytes.data() + offset, value, size);
  };
  const size_t num_blocks = weight.bytes.size() / static_cast<size_t>(BlockBytes(type));
  for (size_t block = 0; block < num_blocks; ++block) {
    const size_t begin = block * static_cast<size_t>(BlockBytes(type));
    const float value = normal(random);
    const uint16_t half = FloatToFp16Bits(value);
    const uint16_t bf16 = FloatToBf16Bits(value);
    if (type == DType::kF32) put(begin, &value, 4);
    if (type == DType::kF16) put(begin, &half, 2);
    if (type == DType::kBf16) put(begin, &bf16, 2);
    if (!IsQuantized(type)) continue;
    for (size_t i = 0; i < static_cast<size_t>(BlockBytes(type)); ++i) {
      weight.bytes[begin + i] = static_cast<std::byte>(random());
    }
    for (const int offset : HalfOffsets(type)) {
      const uint16_t scale = FloatToFp16Bits(normal(random) * 0.1f);
      put(begin + static_cast<size_t>(offset), &scale, 2);
    }
  }
  return weight;
}

// A weight in device memory.
class DeviceWeight {
 public:
  // stored_type: StoredType<T>(weight.type), or a float type of an embedding table.
  DeviceWeight(const FileWeight& weight, DType stored_type) {
    view_.type = stored_type;
    view_.rows = weight.rows;
    view_.cols = weight.cols;
    std::vector<std::byte> image(WeightBytes(view_));
    // Rows in two calls, the later ones first.
    const int half = weight.rows / 2;
    const size_t row_bytes = RowBytes(weight.type, weight.cols);
    PackWeightRows(view_, weight.type, half, weight.rows - half,
                   weight.bytes.data() + static_cast<size_t>(half) * row_bytes, image.data());
    PackWeightRows(view_, weight.type, 0, half, weight.bytes.data(), image.data());
    memory_ = DeviceMemory(image.size());
    CopyToDevice(memory_.data(), image.data(), image.size());
    view_.data = memory_.data();
  }

  const WeightView& view() const { return view_; }

 private:
  WeightView view_;
  DeviceMemory memory_;
};

}  // namespace tessera::conformance
