#include "kernels/cpu/linear.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dequantize.h"
#include "kernels/quant_blocks.h"

namespace tessera {
namespace {

constexpr double kUnitRoundoff = 0x1p-24;  // of fp32

using Bytes = std::vector<std::byte>;

// Where a format keeps its f16 scales.
std::vector<int> HalfOffsets(DType type) {
  switch (type) {
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ5_0:
      return {0};
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ6_K:
      return {208};
    default:
      return {};
  }
}

void StoreElement(DType type, float value, std::byte* out) {
  const uint16_t half = type == DType::kF16
                            ? FloatToHalfFinite(value)
                            : static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
  if (type == DType::kF32) {
    std::memcpy(out, &value, sizeof value);
  } else {
    std::memcpy(out, &half, sizeof half);
  }
}

// Random rows in the file's format: every bit pattern of quants and small scales, with f16 scales
// of either sign that keep the weights near 1.
Bytes RandomRows(DType type, int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Bytes bytes(static_cast<size_t>(rows) * RowBytes(type, cols));
  const auto block_bytes = static_cast<size_t>(BlockBytes(type));
  for (size_t block = 0; block < bytes.size(); block += block_bytes) {
    if (!IsQuantized(type)) {
      StoreElement(type, normal(generator), &bytes[block]);
      continue;
    }
    for (size_t i = 0; i < block_bytes; ++i) bytes[block + i] = static_cast<std::byte>(generator());
    for (int offset : HalfOffsets(type)) {
      const uint16_t half = FloatToHalfFinite(normal(generator) * 0.01f);
      std::memcpy(&bytes[block + static_cast<size_t>(offset)], &half, sizeof half);
    }
  }
  return bytes;
}

// Gaussian, with a few channels 20 times as large, as language models have them.
std::vector<float> RandomActivations(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(rows * cols));
  for (float& value : x) value = normal(generator);
  for (int outlier = 0; outlier < 4; ++outlier) {
    const auto column = static_cast<int64_t>(generator() % static_cast<uint32_t>(cols));
    for (int64_t r = 0; r < rows; ++r) x[static_cast<size_t>(r * cols + column)] *= 20.0f;
  }
  return x;
}

std::unique_ptr<CpuWeight> MakeWeight(DType type, int64_t rows, int64_t cols, const Bytes& bytes) {
  WeightArena arena;
  auto weight = std::make_unique<CpuWeight>(type, rows, cols, &arena);
  weight->PackRows(0, rows, bytes.data());
  return weight;
}

struct RunOptions {
  int num_threads = 1;
  CpuIsa isa = CpuIsa::kAuto;
};

std::vector<float> Multiply(const RunOptions& options, const float* x, int64_t num_rows,
                            const CpuWeight& weight) {
  WorkerPool pool(options.num_threads);
  CpuLinear linear(&pool, options.isa);
  const PackedWeight* weights[] = {&weight};
  std::vector<float> out(static_cast<size_t>(num_rows * weight.rows()), -12345.0f);
  linear.Run(x, num_rows, weights, out.data());
  return out;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<CpuIsa> SupportedIsas() {
  std::vector<CpuIsa> isas;
  for (CpuIsa isa :
       {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Vnni, CpuIsa::kAmx}) {
    if (IsSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

// Widths along K that end in the middle of a vector, a chunk of 8 blocks or a tile.
std::vector<int64_t> ColsToTry(DType type) {
  if (BlockElements(type) == 256) return {256, 2304};
  if (BlockElements(type) == 32) return {32, 288, 576};
  return {1, 31, 100};
}

class LinearTest : public testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(AllTypes, LinearTest, testing::ValuesIn(kAllDTypes),
                         [](const auto& test) { return std::string(Name(test.param)); });

// A product in float64 and what fp32 and the int16 quantisation may add to it.
struct Expected {
  double value = 0;
  double max_error = 0;
  double variance = 0;  // of the quantisation error, taken as uniform in a step
};

// Every activation is off by at most half a step of its block, s = max|x| / 32639 (0.51: the scale
// and the product that is rounded have relative errors of 2^-24 each, 0.004 steps at most). Each
// block then adds the roundings of its dot, of its product with s and of two or three FMAs to a sum
// of magnitudes.
Expected ExpectQuantized(const float* w, const float* x, int64_t cols, double max_abs_term) {
  Expected expected;
  double magnitude = 0;
  for (int64_t block = 0; block < cols; block += kQuantBlock) {
    float max = 0;
    for (int64_t k = block; k < block + kQuantBlock; ++k) max = std::max(max, std::fabs(x[k]));
    const double step = static_cast<double>(max) / 32639;
    for (int64_t k = block; k < block + kQuantBlock; ++k) {
      expected.value += static_cast<double>(w[k]) * x[k];
      expected.max_error += 0.51 * step * std::fabs(w[k]);
      expected.variance += step * step * w[k] * w[k] / 12;
      magnitude += max_abs_term * std::fabs(x[k]);
    }
  }
  const int64_t num_blocks = cols / kQuantBlock;
  const double num_roundings = 3.0 * static_cast<double>(num_blocks) + 2;
  expected.max_error += num_roundings * kUnitRoundoff * magnitude;
  return expected;
}

// One FMA chain: |error| <= K u sum |w x|.
Expected ExpectFloat(const float* w, const float* x, int64_t cols) {
  Expected expected;
  double magnitude = 0;
  for (int64_t k = 0; k < cols; ++k) {
    expected.value += static_cast<double>(w[k]) * x[k];
    magnitude += std::fabs(static_cast<double>(w[k]) * x[k]);
  }
  expected.max_error = static_cast<double>(cols) * kUnitRoundoff * magnitude;
  return expected;
}

// The largest |d q| + |m| of a row: what a block's two terms are made of before they cancel.
double MaxAbsTerm(DType type, const std::byte* row, int64_t cols) {
  double max = 0;
  for (int64_t b = 0; b < cols / kQuantBlock; ++b) {
    const QuantBlock block = DecodeQuantBlock(type, row, b);
    const BlockScales scales = ScalesOf(type, block);
    for (int i = 0; i < kQuantBlock; ++i) {
      const double d = scales.d[static_cast<size_t>(i / 16)];
      const double term = std::fabs(d * block.q[static_cast<size_t>(i)]) + std::fabs(scales.m);
      max = std::max(max, term);
    }
  }
  return max;
}

TEST_P(LinearTest, MatchesTheFloat64ProductWithinTheDerivedBound) {
  const DType type = GetParam();
  constexpr int64_t kRows = 70;
  constexpr int64_t kM = 20;
  for (int64_t cols : ColsToTry(type)) {
    const Bytes bytes = RandomRows(type, kRows, cols, 1);
    const std::vector<float> x = RandomActivations(kM, cols, 2);
    const std::vector<float> out =
        Multiply({}, x.data(), kM, *MakeWeight(type, kRows, cols, bytes));
    std::vector<float> w(static_cast<size_t>(cols));
    double squared_error = 0;
    double variance = 0;
    double squared_rounding = 0;
    for (int64_t n = 0; n < kRows; ++n) {
      const std::byte* row = bytes.data() + static_cast<size_t>(n) * RowBytes(type, cols);
      DequantizeRow(type, row, cols, w.data());
      const double max_abs_term = IsQuantized(type) ? MaxAbsTerm(type, row, cols) : 0;
      for (int64_t m = 0; m < kM; ++m) {
        const float* x_row = x.data() + m * cols;
        const Expected expected = IsQuantized(type)
                                      ? ExpectQuantized(w.data(), x_row, cols, max_abs_term)
                                      : ExpectFloat(w.data(), x_row, cols);
        const double error = out[static_cast<size_t>(m * kRows + n)] - expected.value;
        ASSERT_LE(std::fabs(error), expected.max_error)
            << "cols " << cols << " row " << m << " channel " << n;
        squared_error += error * error;
        variance += expected.variance;
        squared_rounding += std::pow(8 * kUnitRoundoff * expected.value, 2);
      }
    }
    // Over 1,400 outputs the mean square comes close to the variance: 1.5 is far outside of chance,
    // so a lost bit of activation (a factor of 4) fails here.
    if (IsQuantized(type)) {
      EXPECT_LE(squared_error, 1.5 * variance + squared_rounding) << "cols " << cols;
    }
  }
}

TEST_P(LinearTest, ARowsBitsDoNotDependOnTheRowsBesideIt) {
  const DType type = GetParam();
  constexpr int64_t kRows = 100;
  constexpr int64_t kMaxM = 300;  // more than one band of rows
  const int64_t cols = ColsToTry(type).back();
  const auto weight = MakeWeight(type, kRows, cols, RandomRows(type, kRows, cols, 3));
  const std::vector<float> x = RandomActivations(kMaxM, cols, 4);
  for (CpuIsa isa : SupportedIsas()) {
    const int64_t max_m = isa == CpuIsa::kPortable ? 9 : kMaxM;
    std::vector<float> alone;
    for (int64_t m = 0; m < max_m; ++m) {
      const std::vector<float> row = Multiply({.isa = isa}, x.data() + m * cols, 1, *weight);
      alone.insert(alone.end(), row.begin(), row.end());
    }
    for (int64_t m : {2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33, 64, 130, 300}) {
      if (m > max_m) break;
      const std::vector<float> first(alone.begin(), alone.begin() + m * kRows);
      EXPECT_TRUE(SameBits(Multiply({.isa = isa}, x.data(), m, *weight), first))
          << "isa " << static_cast<int>(isa) << " rows " << m;
    }
  }
}

TEST_P(LinearTest, EveryInstructionSetGivesTheSameBits) {
  const DType type = GetParam();
  constexpr int64_t kM = 35;
  for (int64_t cols : ColsToTry(type)) {
    for (int64_t rows : {1, 31, 33, 100}) {
      const auto weight = MakeWeight(type, rows, cols, RandomRows(type, rows, cols, 5));
      const std::vector<float> x = RandomActivations(kM, cols, 6);
      const std::vector<float> portable =
          Multiply({.isa = CpuIsa::kPortable}, x.data(), kM, *weight);
      for (CpuIsa isa : SupportedIsas()) {
        for (int64_t m : {int64_t{1}, int64_t{4}, int64_t{13}, int64_t{16}, int64_t{29}, kM}) {
          const std::vector<float> first(portable.begin(), portable.begin() + m * rows);
          EXPECT_TRUE(SameBits(Multiply({.isa = isa}, x.data(), m, *weight), first))
              << "isa " << static_cast<int>(isa) << " cols " << cols << " rows " << rows << " M "
              << m;
        }
      }
    }
  }
}

// Every quant the same, all bits of it set or some: the largest dots that a format can have.
Bytes UniformRows(DType type, int64_t rows, int64_t cols) {
  constexpr uint8_t kPatterns[] = {0x00, 0xFF, 0x80, 0x7F, 0x88, 0x77, 0xF0, 0x0F};
  Bytes bytes = RandomRows(type, rows, cols, 15);
  const Bytes scales = bytes;
  const auto block_bytes = static_cast<size_t>(BlockBytes(type));
  const size_t row_bytes = RowBytes(type, cols);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = std::byte{kPatterns[i / row_bytes % std::size(kPatterns)]};
  }
  for (size_t block = 0; block < bytes.size(); block += block_bytes) {
    for (int offset : HalfOffsets(type)) {
      const size_t at = block + static_cast<size_t>(offset);
      std::memcpy(&bytes[at], &scales[at], sizeof(uint16_t));
    }
  }
  return bytes;
}

TEST_P(LinearTest, TheLargestDotsAreExactOnEveryPath) {
  const DType type = GetParam();
  if (!IsQuantized(type)) GTEST_SKIP() << "no integers";
  constexpr int64_t kRows = 64;
  constexpr int64_t kM = 16;
  const int64_t cols = ColsToTry(type).back();
  const auto weight = MakeWeight(type, kRows, cols, UniformRows(type, kRows, cols));
  // Of one sign, and with every low byte: the integers run from 32639 down to some 32000.
  std::vector<float> x(static_cast<size_t>(kM * cols));
  for (size_t i = 0; i < x.size(); ++i) {
    const float magnitude = 1.0f - static_cast<float>(i % 32 * (i / 32 % 3)) * 0x1p-12f;
    x[i] = static_cast<int64_t>(i) / cols % 2 == 0 ? magnitude : -magnitude;
  }
  const std::vector<float> portable = Multiply({.isa = CpuIsa::kPortable}, x.data(), kM, *weight);
  for (CpuIsa isa : SupportedIsas()) {
    EXPECT_TRUE(SameBits(Multiply({.isa = isa}, x.data(), kM, *weight), portable))
        << "isa " << static_cast<int>(isa);
  }
}

TEST_P(LinearTest, ThreadCountChangesNoBit) {
  const DType type = GetParam();
  constexpr int64_t kRows = 130;
  const int64_t cols = ColsToTry(type).back();
  const auto weight = MakeWeight(type, kRows, cols, RandomRows(type, kRows, cols, 7));
  const std::vector<float> x = RandomActivations(200, cols, 8);
  for (CpuIsa isa : SupportedIsas()) {
    for (int64_t m : {1, 7, 12, 30, 200}) {
      if (isa == CpuIsa::kPortable && m > 12) break;  // it is slow, and it has tiles of one row
      const std::vector<float> one = Multiply({.num_threads = 1, .isa = isa}, x.data(), m, *weight);
      for (int num_threads : {2, 3}) {
        const RunOptions options = {.num_threads = num_threads, .isa = isa};
        EXPECT_TRUE(SameBits(Multiply(options, x.data(), m, *weight), one))
            << "isa " << static_cast<int>(isa) << " threads " << num_threads << " M " << m;
      }
    }
  }
}

TEST_P(LinearTest, EmbedGivesTheDequantizedRowsBitForBit) {
  const DType type = GetParam();
  constexpr int64_t kRows = 45;
  WorkerPool pool(2);
  CpuLinear linear(&pool, CpuIsa::kAuto);
  for (int64_t cols : ColsToTry(type)) {
    const Bytes bytes = RandomRows(type, kRows, cols, 9);
    const auto weight = MakeWeight(type, kRows, cols, bytes);
    const std::vector<TokenId> tokens = {0, 44, 31, 32, 7, 7};
    std::vector<float> out(tokens.size() * static_cast<size_t>(cols));
    linear.Embed(*weight, tokens, out.data());
    std::vector<float> expected(out.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      DequantizeRow(type, bytes.data() + static_cast<size_t>(tokens[i]) * RowBytes(type, cols),
                    cols, expected.data() + i * static_cast<size_t>(cols));
    }
    EXPECT_TRUE(SameBits(out, expected)) << "cols " << cols;
  }
}

TEST_P(LinearTest, RowsMayBePackedInAnyOrder) {
  const DType type = GetParam();
  constexpr int64_t kRows = 40;
  const int64_t cols = ColsToTry(type).back();
  const Bytes bytes = RandomRows(type, kRows, cols, 10);
  const auto whole = MakeWeight(type, kRows, cols, bytes);
  WeightArena arena;
  CpuWeight pieces(type, kRows, cols, &arena);
  const auto row_bytes = static_cast<int64_t>(RowBytes(type, cols));
  pieces.PackRows(33, 7, bytes.data() + 33 * row_bytes);
  pieces.PackRows(0, 5, bytes.data());
  pieces.PackRows(5, 28, bytes.data() + 5 * row_bytes);
  ASSERT_EQ(pieces.size_bytes(), whole->size_bytes());
  EXPECT_EQ(std::memcmp(pieces.panel(0), whole->panel(0), whole->size_bytes()), 0);
}

TEST_P(LinearTest, ANonFiniteRowPoisonsItselfAlone) {
  const DType type = GetParam();
  constexpr int64_t kRows = 33;
  constexpr int64_t kM = 16;  // at most: AMX multiplies so many, and none so few as 3
  const int64_t cols = ColsToTry(type).back();
  const auto weight = MakeWeight(type, kRows, cols, RandomRows(type, kRows, cols, 11));
  const std::vector<float> good = RandomActivations(kM, cols, 12);
  for (float bad_value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = good;
    x[static_cast<size_t>(cols + cols / 2)] = bad_value;
    for (CpuIsa isa : SupportedIsas()) {
      for (int64_t m : {int64_t{3}, kM}) {
        const std::vector<float> expected = Multiply({.isa = isa}, good.data(), m, *weight);
        const std::vector<float> out = Multiply({.isa = isa}, x.data(), m, *weight);
        for (size_t i = 0; i < out.size(); ++i) {
          const bool is_bad = i / kRows == 1;
          EXPECT_TRUE(is_bad ? !std::isfinite(out[i]) : out[i] == expected[i]) << i;
        }
      }
    }
  }
}

TEST(LinearQuantizationTest, BlocksBelowTheSmallestScaleAreZeros) {
  constexpr int64_t kCols = 64;
  const auto weight = MakeWeight(DType::kQ4_1, 32, kCols, RandomRows(DType::kQ4_1, 32, kCols, 13));
  constexpr int64_t kM = 16;
  std::vector<float> x(kM * kCols, 0x1.8p-101f);  // a first block; a second is just large enough
  std::vector<float> only_second(x.size());
  for (size_t k = 0; k < x.size(); ++k) {
    if (k % kCols >= 32) x[k] = only_second[k] = 0x1p-100f;
  }
  for (CpuIsa isa : SupportedIsas()) {
    for (int64_t m : {int64_t{1}, kM}) {
      const std::vector<float> out = Multiply({.isa = isa}, x.data(), m, *weight);
      EXPECT_TRUE(SameBits(out, Multiply({.isa = isa}, only_second.data(), m, *weight)));
      EXPECT_NE(out[0], 0.0f);
    }
  }
}

// With W = 1 at one place the output is the quantised activation itself, s * q.
TEST(LinearQuantizationTest, RoundsToNearestEven) {
  constexpr int64_t kCols = 32;
  Bytes bytes(RowBytes(DType::kQ8_0, kCols));
  const uint16_t one = 0x3C00;
  std::memcpy(bytes.data(), &one, sizeof one);
  bytes[2 + 5] = std::byte{1};
  const auto weight = MakeWeight(DType::kQ8_0, 1, kCols, bytes);
  std::vector<float> x(kCols, 0.0f);
  x[0] = 32639.0f;  // makes the scale exactly 1
  const std::pair<float, float> cases[] = {{0.5f, 0.0f},   {1.5f, 2.0f},   {2.5f, 2.0f},
                                           {-0.5f, 0.0f},  {-1.5f, -2.0f}, {7.49f, 7.0f},
                                           {-7.51f, -8.0f}};
  for (CpuIsa isa : SupportedIsas()) {
    for (const auto& [value, rounded] : cases) {
      x[5] = value;
      EXPECT_EQ(Multiply({.isa = isa}, x.data(), 1, *weight)[0], rounded) << value;
    }
  }
}

TEST(LinearRunTest, WeightsOfDifferentTypesStandSideBySide) {
  constexpr int64_t kCols = 256;
  constexpr int64_t kM = 21;
  const std::vector<float> x = RandomActivations(kM, kCols, 14);
  std::vector<std::unique_ptr<CpuWeight>> weights;
  std::vector<const PackedWeight*> pointers;
  int64_t total_rows = 0;
  for (DType type : kAllDTypes) {
    const int64_t rows = 10 + 7 * static_cast<int64_t>(weights.size());
    weights.push_back(MakeWeight(type, rows, kCols, RandomRows(type, rows, kCols, 15)));
    pointers.push_back(weights.back().get());
    total_rows += rows;
  }
  WorkerPool pool(2);
  CpuLinear linear(&pool, CpuIsa::kAuto);
  std::vector<float> out(static_cast<size_t>(kM * total_rows));
  linear.Run(x.data(), kM, pointers, out.data());
  int64_t column = 0;
  for (const auto& weight : weights) {
    const std::vector<float> alone = Multiply({}, x.data(), kM, *weight);
    for (int64_t m = 0; m < kM; ++m) {
      EXPECT_EQ(std::memcmp(&out[static_cast<size_t>(m * total_rows + column)],
                            &alone[static_cast<size_t>(m * weight->rows())],
                            static_cast<size_t>(weight->rows()) * sizeof(float)),
                0)
          << Name(weight->type()) << " row " << m;
    }
    column += weight->rows();
  }
}

}  // namespace
}  // namespace tessera
