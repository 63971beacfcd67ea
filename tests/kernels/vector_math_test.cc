// The virtual vector and its elementary functions: accuracy against double libm, and the same bits
// on every instruction set.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/dequantize.h"
#include "tests/kernels/vector_math_probe.h"

namespace tessera {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Path {
  const char* name;
  const VectorMathProbe* probe;
};

std::vector<Path> SupportedPaths() {
  std::vector<Path> paths = {{"portable", &kVectorMathPortable}};
  if (IsSupported(CpuIsa::kAvx2)) paths.push_back({"avx2", &kVectorMathAvx2});
  if (IsSupported(CpuIsa::kAvx512)) paths.push_back({"avx512", &kVectorMathAvx512});
  return paths;
}

const VectorMathProbe& WidestProbe() { return *SupportedPaths().back().probe; }

// About `count` floats that cover [low, high] evenly in their bit patterns, so in every exponent.
std::vector<float> FloatsBetween(float low, float high, uint32_t count) {
  const auto first = std::bit_cast<uint32_t>(low);
  const auto last = std::bit_cast<uint32_t>(high);
  const uint32_t step = std::max(1u, (last - first) / count) | 1u;
  std::vector<float> floats;
  for (uint64_t bits = first; bits <= last; bits += step) {
    floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  floats.resize((floats.size() + 15) / 16 * 16, high);
  return floats;
}

std::vector<float> Negated(std::vector<float> floats) {
  for (float& x : floats) x = -x;
  return floats;
}

double UnitInLastPlace(double exact) {
  int exponent = 0;
  std::frexp(exact, &exponent);
  return std::ldexp(1.0, std::max(exponent - 24, -149));
}

// The largest error in units in the last place of the exact result.
double MaxErrorUlps(VectorMathProbe::Unary function, double (*exact)(double),
                    const std::vector<float>& inputs) {
  std::vector<float> outputs(inputs.size());
  function(inputs.data(), outputs.data(), static_cast<int64_t>(inputs.size()));
  double worst = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const double wanted = exact(double{inputs[i]});
    const double error = std::fabs(double{outputs[i]} - wanted) / UnitInLastPlace(wanted);
    EXPECT_FALSE(std::isnan(error)) << "at " << inputs[i];
    worst = std::max(worst, error);
  }
  return worst;
}

constexpr uint32_t kSamples = 1 << 21;

TEST(VectorMathTest, Exp2IsWithinOneUlp) {
  const auto exp2 = WidestProbe().exp2;
  const auto exact = [](double x) { return std::exp2(x); };
  EXPECT_LT(MaxErrorUlps(exp2, exact, FloatsBetween(1e-30f, 127.4999f, kSamples)), 1.0);
  EXPECT_LT(MaxErrorUlps(exp2, exact, Negated(FloatsBetween(1e-30f, 126.0f, kSamples))), 1.0);
}

TEST(VectorMathTest, ExpIsWithinItsStatedError) {
  const auto exp = WidestProbe().exp;
  const auto exact = [](double x) { return std::exp(x); };
  EXPECT_LT(MaxErrorUlps(exp, exact, FloatsBetween(1e-30f, 88.37f, kSamples)), 1.1);
  EXPECT_LT(MaxErrorUlps(exp, exact, Negated(FloatsBetween(1e-30f, 87.3365f, kSamples))), 1.1);
}

// The interval around 1 is where a logarithm loses its relative accuracy first.
TEST(VectorMathTest, LogIsWithinOneUlpAlsoNearOne) {
  const auto log = WidestProbe().log;
  const auto exact = [](double x) { return std::log(x); };
  EXPECT_LT(MaxErrorUlps(log, exact, FloatsBetween(1e-45f, 3.4e38f, kSamples)), 1.0);
  EXPECT_LT(MaxErrorUlps(log, exact, FloatsBetween(0.5f, 2.0f, kSamples)), 1.0);
  EXPECT_LT(MaxErrorUlps(log, exact, FloatsBetween(0.9999f, 1.0001f, kSamples)), 1.0);
}

TEST(VectorMathTest, SigmoidAndTanhAreWithinTheirStatedErrors) {
  const auto sigmoid = WidestProbe().sigmoid;
  const auto exact_sigmoid = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
  EXPECT_LT(MaxErrorUlps(sigmoid, exact_sigmoid, FloatsBetween(1e-30f, 200.0f, kSamples)), 2.5);
  EXPECT_LT(MaxErrorUlps(sigmoid, exact_sigmoid, Negated(FloatsBetween(1e-30f, 87.0f, kSamples))),
            2.5);
  const auto exact_tanh = [](double x) { return std::tanh(x); };
  EXPECT_LT(MaxErrorUlps(WidestProbe().tanh, exact_tanh, FloatsBetween(1e-30f, 50.0f, kSamples)),
            2.0);
}

float Apply(VectorMathProbe::Unary function, float x) {
  float lanes[16];
  std::fill_n(lanes, 16, x);
  function(lanes, lanes, 16);
  return lanes[0];
}

TEST(VectorMathTest, ExactAndSpecialValues) {
  for (const auto& [name, probe] : SupportedPaths()) {
    SCOPED_TRACE(name);
    for (int n = -126; n <= 127; ++n) {
      ASSERT_EQ(Apply(probe->exp2, static_cast<float>(n)), std::ldexp(1.0f, n)) << n;
    }
    for (const float x : {-126.00001f, -127.0f, -150.0f, -1e30f, -kInf}) {
      EXPECT_EQ(Apply(probe->exp2, x), 0.0f) << x;
    }
    EXPECT_EQ(Apply(probe->exp2, 128.0f), kInf);
    EXPECT_EQ(Apply(probe->exp2, kInf), kInf);
    EXPECT_EQ(Apply(probe->exp, 0.0f), 1.0f);
    EXPECT_EQ(Apply(probe->exp, -1000.0f), 0.0f);
    EXPECT_EQ(Apply(probe->exp, 1000.0f), kInf);
    EXPECT_EQ(Apply(probe->log, 1.0f), 0.0f);
    EXPECT_EQ(Apply(probe->log, 0.0f), -kInf);
    EXPECT_EQ(Apply(probe->log, kInf), kInf);
    EXPECT_TRUE(std::isnan(Apply(probe->log, -1.0f)));
    EXPECT_EQ(Apply(probe->sigmoid, 0.0f), 0.5f);
    EXPECT_EQ(Apply(probe->sigmoid, kInf), 1.0f);
    EXPECT_EQ(Apply(probe->sigmoid, -kInf), 0.0f);
    EXPECT_EQ(Apply(probe->tanh, kInf), 1.0f);
    EXPECT_EQ(Apply(probe->tanh, -kInf), -1.0f);
    EXPECT_TRUE(std::signbit(Apply(probe->tanh, -0.0f)));
    for (const auto function : {probe->exp2, probe->exp, probe->log, probe->sigmoid, probe->tanh}) {
      EXPECT_TRUE(std::isnan(Apply(function, kNan)));
    }
  }
}

// Every exponent and sign, and the values where a function changes branch.
std::vector<float> BitPatterns() {
  std::vector<float> floats = FloatsBetween(0.0f, kInf, 1 << 18);
  const std::vector<float> negative = Negated(floats);
  floats.insert(floats.end(), negative.begin(), negative.end());
  for (const float x : {0.625f, 126.0f, 127.5f, 128.0f, 87.33654f, 88.7f, 0.70710678f}) {
    for (const float y : {x, std::nextafter(x, 0.0f), std::nextafter(x, kInf)}) {
      floats.push_back(y);
      floats.push_back(-y);
    }
  }
  floats.resize((floats.size() + 15) / 16 * 16, 0.0f);
  return floats;
}

std::vector<float> Apply(VectorMathProbe::Unary function, const std::vector<float>& inputs) {
  std::vector<float> outputs(inputs.size());
  function(inputs.data(), outputs.data(), static_cast<int64_t>(inputs.size()));
  return outputs;
}

// NaNs may differ in their payload.
void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b,
                    const std::vector<float>& inputs) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i]))
        << "at " << inputs[i] << ": " << a[i] << " and " << b[i];
  }
}

TEST(VectorMathTest, EveryPathAndTheScalarFormsGiveTheSameBits) {
  const std::vector<float> inputs = BitPatterns();
  for (const auto function :
       {&VectorMathProbe::exp2, &VectorMathProbe::exp, &VectorMathProbe::log,
        &VectorMathProbe::sigmoid, &VectorMathProbe::tanh, &VectorMathProbe::sqrt}) {
    const std::vector<float> expected = Apply(kVectorMathPortable.*function, inputs);
    for (const auto& [name, probe] : SupportedPaths()) {
      SCOPED_TRACE(name);
      ExpectSameBits(Apply(probe->*function, inputs), expected, inputs);
    }
  }
  for (const auto& [name, probe] : SupportedPaths()) {
    SCOPED_TRACE(name);
    ExpectSameBits(Apply(probe->scalar_exp2, inputs), Apply(probe->exp2, inputs), inputs);
    ExpectSameBits(Apply(probe->scalar_log, inputs), Apply(probe->log, inputs), inputs);
  }
}

TEST(SimdTest, ReductionsFollowTheTree) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 1000; ++trial) {
    float lanes[16];
    for (float& lane : lanes) lane = normal(random) * std::exp(4 * normal(random));
    float tree[16];
    std::copy_n(lanes, 16, tree);
    for (int width = 8; width >= 1; width /= 2) {
      for (int j = 0; j < width; ++j) tree[j] += tree[j + width];
    }
    for (const auto& [name, probe] : SupportedPaths()) {
      ASSERT_EQ(probe->reduce_add(lanes), tree[0]) << name;
      ASSERT_EQ(probe->reduce_max(lanes), *std::max_element(lanes, lanes + 16)) << name;
    }
  }
}

TEST(SimdTest, FmaRoundsOnce) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 1000; ++trial) {
    float a[16], b[16], c[16], out[16];
    for (int j = 0; j < 16; ++j) {
      a[j] = normal(random);
      b[j] = normal(random);
      c[j] = -a[j] * b[j];  // leaves exactly the product's rounding error
    }
    for (const auto& [name, probe] : SupportedPaths()) {
      probe->fma(a, b, c, out);
      for (int j = 0; j < 16; ++j) ASSERT_EQ(out[j], std::fma(a[j], b[j], c[j])) << name;
    }
  }
}

TEST(SimdTest, ComparisonsTreatNanAsDocumented) {
  float a[16] = {kNan, 1, 1, 2, kInf, -kInf, 0, -0.0f};
  float b[16] = {1, kNan, 2, 1, kInf, 1, -0.0f, 0};
  for (const auto& [name, probe] : SupportedPaths()) {
    SCOPED_TRACE(name);
    float min[16], max[16];
    probe->min_max(a, b, min, max);
    EXPECT_EQ(min[0], 1.0f);
    EXPECT_TRUE(std::isnan(min[1]) && std::isnan(max[1]));
    EXPECT_EQ(min[3], 1.0f);
    EXPECT_EQ(max[3], 2.0f);
    EXPECT_TRUE(std::signbit(max[6]));  // equal: the second operand
    EXPECT_FALSE(std::signbit(min[7]));
    EXPECT_EQ(probe->less(a, b), 0b100100u);
    EXPECT_EQ(probe->finite(a), 0xFFCEu);
    EXPECT_EQ(probe->finite(b), 0xFFEDu);
  }
}

TEST(SimdTest, PartialLoadsAndStoresTouchOnlyTheirLanes) {
  float in[16];
  for (int j = 0; j < 16; ++j) in[j] = static_cast<float>(j + 1);
  for (const auto& [name, probe] : SupportedPaths()) {
    for (int count = 0; count <= 16; ++count) {
      float out[16] = {};
      std::vector<float> exact(in, in + count);  // a sanitizer sees reads beyond
      probe->copy_first(exact.data(), out, count);
      for (int j = 0; j < 16; ++j) ASSERT_EQ(out[j], j < count ? in[j] : 0.0f) << name << count;
    }
  }
}

TEST(SimdTest, HalfConversionsMatchTheirDefinition) {
  for (const auto& [name, probe] : SupportedPaths()) {
    SCOPED_TRACE(name);
    for (uint32_t first = 0; first < 0x10000; first += 16) {
      uint16_t halves[16];
      float floats[16];
      for (uint32_t j = 0; j < 16; ++j) halves[j] = static_cast<uint16_t>(first + j);
      probe->from_half(halves, floats);
      for (int j = 0; j < 16; ++j) {
        const float expected = HalfToFloat(halves[j]);
        if (std::isnan(expected)) continue;
        ASSERT_EQ(std::bit_cast<uint32_t>(floats[j]), std::bit_cast<uint32_t>(expected));
      }
    }
    std::vector<float> inputs = BitPatterns();
    inputs.insert(inputs.end(), {kNan, -kNan, 65504.0f, 65519.0f, 65520.0f, -65520.0f, 0x1p-25f,
                                 0x1.8p-25f, -0x1p-24f, 2049.0f, 2051.0f, 1e38f, -1e38f, 0, 0, 0});
    for (size_t i = 0; i + 16 <= inputs.size(); i += 16) {
      uint16_t halves[16];
      probe->to_half(&inputs[i], halves);
      for (size_t j = 0; j < 16; ++j) {
        ASSERT_EQ(halves[j], FloatToHalfFinite(inputs[i + j])) << inputs[i + j];
      }
    }
  }
}

}  // namespace
}  // namespace tessera
