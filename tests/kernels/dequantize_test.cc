#include "kernels/dequantize.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

// Blocks written by hand, byte by byte, from the format's description; tests/golden compares random
// ones with the gguf package's dequantisation.

namespace tessera {
namespace {

constexpr uint16_t kHalfOne = 0x3C00;
constexpr uint16_t kHalfMinusOne = 0xBC00;
constexpr uint16_t kHalfPoint5 = 0x3800;

class ByteWriter {
 public:
  ByteWriter& Half(uint16_t half) { return Byte(half & 0xFF).Byte(half >> 8); }
  ByteWriter& Byte(int value) {
    bytes_.push_back(static_cast<std::byte>(value));
    return *this;
  }
  const std::byte* data() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }

 private:
  std::vector<std::byte> bytes_;
};

std::vector<float> Dequantize(DType type, const ByteWriter& block) {
  EXPECT_EQ(block.size(), static_cast<size_t>(BlockBytes(type)));
  std::vector<float> values(static_cast<size_t>(BlockElements(type)), -12345.0f);
  DequantizeRow(type, block.data(), BlockElements(type), values.data());
  return values;
}

// Byte i holds i in its low nibble and 15 - i in its high one.
void AddNibbleRamp(ByteWriter* block) {
  for (int i = 0; i < 16; ++i) block->Byte(i | ((15 - i) << 4));
}

TEST(DequantizeTest, Q8_0) {
  ByteWriter block;
  block.Half(kHalfPoint5);
  for (int i = 0; i < 32; ++i) block.Byte(i * 8 - 128);
  const std::vector<float> values = Dequantize(DType::kQ8_0, block);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(values[i], static_cast<float>(i * 4 - 64)) << i;
}

TEST(DequantizeTest, Q4_0) {
  ByteWriter block;
  block.Half(kHalfPoint5);
  AddNibbleRamp(&block);
  const std::vector<float> values = Dequantize(DType::kQ4_0, block);
  EXPECT_EQ(values[0], -4.0f);
  EXPECT_EQ(values[15], 3.5f);
  EXPECT_EQ(values[16], 3.5f);
  EXPECT_EQ(values[31], -4.0f);
  for (int i = 0; i < 16; ++i) EXPECT_EQ(values[i], 0.5f * static_cast<float>(i - 8)) << i;
}

TEST(DequantizeTest, Q4_1) {
  ByteWriter block;
  block.Half(kHalfPoint5).Half(kHalfMinusOne);
  AddNibbleRamp(&block);
  const std::vector<float> values = Dequantize(DType::kQ4_1, block);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(values[i], 0.5f * static_cast<float>(i) - 1.0f) << i;
    EXPECT_EQ(values[i + 16], 0.5f * static_cast<float>(15 - i) - 1.0f) << i;
  }
}

TEST(DequantizeTest, Q5_0TakesTheFifthBitFromQh) {
  ByteWriter block;
  block.Half(kHalfOne).Byte(0x01).Byte(0x80).Byte(0x00).Byte(0x80);  // elements 0, 15 and 31
  AddNibbleRamp(&block);
  const std::vector<float> values = Dequantize(DType::kQ5_0, block);
  EXPECT_EQ(values[0], 0.0f);    // 0 + 16 - 16
  EXPECT_EQ(values[1], -15.0f);  // 1 - 16
  EXPECT_EQ(values[15], 15.0f);  // 15 + 16 - 16
  EXPECT_EQ(values[16], -1.0f);  // 15 - 16
  EXPECT_EQ(values[31], 0.0f);   // 0 + 16 - 16
}

TEST(DequantizeTest, Q5_1) {
  ByteWriter block;
  block.Half(kHalfPoint5).Half(kHalfOne).Byte(0x02).Byte(0).Byte(0x01).Byte(0);  // 1 and 16
  AddNibbleRamp(&block);
  const std::vector<float> values = Dequantize(DType::kQ5_1, block);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], 9.5f);    // 0.5 * 17 + 1
  EXPECT_EQ(values[2], 2.0f);    // 0.5 * 2 + 1
  EXPECT_EQ(values[16], 16.5f);  // 0.5 * 31 + 1
  EXPECT_EQ(values[31], 1.0f);
}

constexpr std::array<int, 8> kKScales = {1, 22, 43, 63, 5, 26, 47, 60};
constexpr std::array<int, 8> kKMins = {62, 3, 33, 14, 61, 0, 36, 17};

// The 12 bytes of six-bit scales and minimums.
void AddKScales(ByteWriter* block) {
  for (int j = 0; j < 4; ++j) block->Byte(kKScales[j] | ((kKScales[j + 4] >> 4) << 6));
  for (int j = 0; j < 4; ++j) block->Byte(kKMins[j] | ((kKMins[j + 4] >> 4) << 6));
  for (int j = 0; j < 4; ++j) block->Byte((kKScales[j + 4] & 15) | ((kKMins[j + 4] & 15) << 4));
}

// What element i's low four bits are made to be in the tests of K-quants.
int KNibble(int i) { return (i * 7 + i / 32) & 15; }

// 64 elements share 32 bytes.
void AddKNibbles(ByteWriter* block) {
  for (int pair = 0; pair < 4; ++pair) {
    for (int i = 0; i < 32; ++i) {
      block->Byte(KNibble(pair * 64 + i) | (KNibble(pair * 64 + 32 + i) << 4));
    }
  }
}

TEST(DequantizeTest, Q4_K) {
  ByteWriter block;
  block.Half(kHalfPoint5).Half(kHalfOne);
  AddKScales(&block);
  AddKNibbles(&block);
  const std::vector<float> values = Dequantize(DType::kQ4_K, block);
  EXPECT_EQ(values[0], -62.0f);                // 0.5 * 1 * 0 - 62
  EXPECT_EQ(values[1], 0.5f * 7 - 62);         // scale 1, min 62
  EXPECT_EQ(values[255], 0.5f * 60 * 0 - 17);  // (255 * 7 + 7) & 15 = 0
  for (int i = 0; i < 256; ++i) {
    const int sub = i / 32;
    EXPECT_EQ(values[i], 0.5f * static_cast<float>(kKScales[sub] * KNibble(i)) -
                             static_cast<float>(kKMins[sub]))
        << i;
  }
}

TEST(DequantizeTest, Q5_K) {
  ByteWriter block;
  block.Half(kHalfPoint5).Half(kHalfMinusOne);
  AddKScales(&block);
  const auto fifth_bit = [](int i) { return (i / 3 + i / 32) & 1; };
  for (int i = 0; i < 32; ++i) {
    int bits = 0;
    for (int sub = 0; sub < 8; ++sub) bits |= fifth_bit(sub * 32 + i) << sub;
    block.Byte(bits);
  }
  AddKNibbles(&block);
  const std::vector<float> values = Dequantize(DType::kQ5_K, block);
  for (int i = 0; i < 256; ++i) {
    const int sub = i / 32;
    const int q = KNibble(i) + 16 * fifth_bit(i);
    EXPECT_EQ(values[i],
              0.5f * static_cast<float>(kKScales[sub] * q) + static_cast<float>(kKMins[sub]))
        << i;
  }
}

TEST(DequantizeTest, Q6_K) {
  const auto quant = [](int i) { return (i * 11 + i / 64) & 63; };
  ByteWriter block;
  for (int half = 0; half < 256; half += 128) {
    for (int i = half; i < half + 64; ++i) {
      block.Byte((quant(i) & 15) | ((quant(i + 64) & 15) << 4));
    }
  }
  for (int half = 0; half < 256; half += 128) {
    for (int i = half; i < half + 32; ++i) {
      block.Byte((quant(i) >> 4) | ((quant(i + 32) >> 4) << 2) | ((quant(i + 64) >> 4) << 4) |
                 ((quant(i + 96) >> 4) << 6));
    }
  }
  for (int i = 0; i < 16; ++i) block.Byte(i * 16 - 128);  // signed scales of 16 elements
  block.Half(kHalfPoint5);
  const std::vector<float> values = Dequantize(DType::kQ6_K, block);
  EXPECT_EQ(values[0], 0.5f * -128 * -32);
  for (int i = 0; i < 256; ++i) {
    const int scale = i / 16 * 16 - 128;
    EXPECT_EQ(values[i], 0.5f * static_cast<float>(scale * (quant(i) - 32))) << i;
  }
}

TEST(DequantizeTest, FloatTypes) {
  ByteWriter f32;
  for (int byte : {0x00, 0x00, 0xC0, 0x3F}) f32.Byte(byte);
  EXPECT_EQ(Dequantize(DType::kF32, f32)[0], 1.5f);
  EXPECT_EQ(Dequantize(DType::kF16, ByteWriter().Half(0xC200))[0], -3.0f);
  EXPECT_EQ(Dequantize(DType::kBf16, ByteWriter().Half(0x4049))[0], 3.140625f);
}

TEST(DequantizeTest, WalksSeveralBlocksAtAnyAlignment) {
  ByteWriter row;
  row.Byte(0);  // shifts the blocks to odd addresses
  for (int block = 1; block <= 3; ++block) {
    row.Half(kHalfOne);
    for (int i = 0; i < 32; ++i) row.Byte(block * 10 + i);
  }
  std::vector<float> values(96);
  DequantizeRow(DType::kQ8_0, row.data() + 1, 96, values.data());
  EXPECT_EQ(values[0], 10.0f);
  EXPECT_EQ(values[63], 51.0f);
  EXPECT_EQ(values[95], 61.0f);
}

TEST(HalfTest, EveryHalfConvertsExactly) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const int exponent = (half >> 10) & 31;
    const int mantissa = half & 0x3FF;
    if (exponent == 31) continue;
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    const float expected = static_cast<float>(half & 0x8000 ? -magnitude : magnitude);
    ASSERT_EQ(std::bit_cast<uint32_t>(HalfToFloat(half)), std::bit_cast<uint32_t>(expected))
        << bits;
    ASSERT_EQ(FloatToHalfFinite(expected), half) << bits;
  }
  EXPECT_TRUE(std::isinf(HalfToFloat(0x7C00)));
  EXPECT_EQ(HalfToFloat(0xFC00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(HalfToFloat(0x7E00)));
}

TEST(HalfTest, RoundsToNearestEvenBetweenEveryPairOfNeighbours) {
  for (int bits = 0; bits < 0x7BFF; ++bits) {
    const auto lower = static_cast<uint16_t>(bits);
    const auto upper = static_cast<uint16_t>(bits + 1);
    const float middle = (HalfToFloat(lower) + HalfToFloat(upper)) / 2;
    ASSERT_EQ(FloatToHalfFinite(middle), bits % 2 == 0 ? lower : upper) << bits;
    ASSERT_EQ(FloatToHalfFinite(std::nextafter(middle, 0.0f)), lower) << bits;
    ASSERT_EQ(FloatToHalfFinite(std::nextafter(middle, 1e9f)), upper) << bits;
    ASSERT_EQ(FloatToHalfFinite(-middle), 0x8000 | (bits % 2 == 0 ? lower : upper)) << bits;
  }
}

TEST(HalfTest, StaysFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(FloatToHalfFinite(65519.0f), 0x7BFF);
  EXPECT_EQ(FloatToHalfFinite(65520.0f), 0x7BFF);
  EXPECT_EQ(FloatToHalfFinite(infinity), 0x7BFF);
  EXPECT_EQ(FloatToHalfFinite(-infinity), 0xFBFF);
  EXPECT_EQ(FloatToHalfFinite(std::numeric_limits<float>::quiet_NaN()), 0);
  EXPECT_EQ(FloatToHalfFinite(1e-40f), 0);
}

}  // namespace
}  // namespace tessera
