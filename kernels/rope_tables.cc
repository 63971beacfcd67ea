#include "kernels/rope_tables.h"

#include <cstdint>
#include <vector>

#include "base/check.h"

namespace tessera {
namespace {

// ln 2 and pi / 2 in parts; a small integer times the first part (or the first two) is exact.
constexpr double kLn2High = 0x1.62e42fee00000p-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kLog2E = 0x1.71547652b82fep+0;
constexpr double kHalfPiHigh = 0x1.921fb54400000p+0;
constexpr double kHalfPiMiddle = 0x1.0b4611a600000p-34;
constexpr double kHalfPiLow = 0x1.3198a2e037073p-69;
constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;

// Natural logarithm of a positive normal double. log(m) = 2 atanh((m - 1) / (m + 1)).
double LogOf(double x) {
  const auto bits = __builtin_bit_cast(uint64_t, x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double m = __builtin_bit_cast(double, (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double s2 = s * s;  // at most 0.0295: ten terms reach 2^-56
  double series = 0.0;
  for (int k = 21; k >= 3; k -= 2) series = (series + 1.0 / k) * s2;
  const double e = exponent;
  return e * kLn2High + (e * kLn2Low + 2.0 * s * (1.0 + series));
}

// e^x for |x| < 700.
double ExpOf(double x) {
  const double shifted = x * kLog2E;
  const auto n = static_cast<int64_t>(shifted < 0.0 ? shifted - 0.5 : shifted + 0.5);
  const auto dn = static_cast<double>(n);
  const double r = (x - dn * kLn2High) - dn * kLn2Low;
  double series = 1.0;  // Taylor; |r| <= 0.347, so 14 terms reach 2^-60
  for (int k = 14; k >= 1; --k) series = 1.0 + series * r / k;
  return series * __builtin_bit_cast(double, static_cast<uint64_t>(n + 1023) << 52);
}

struct SinCos {
  double sine;
  double cosine;
};

// For 0 <= angle < 2^24: the multiple of pi/2 then fits the zeros at the end of the parts.
SinCos SinCosOf(double angle) {
  const auto quadrant = static_cast<int64_t>(angle * kTwoOverPi + 0.5);
  const auto q = static_cast<double>(quadrant);
  const double r = ((angle - q * kHalfPiHigh) - q * kHalfPiMiddle) - q * kHalfPiLow;
  const double r2 = r * r;
  double sine = 1.0;  // Taylor in nested form; |r| <= 0.786
  for (int k = 20; k >= 2; k -= 2) sine = 1.0 - sine * r2 / (k * (k + 1));
  sine *= r;
  double cosine = 1.0;
  for (int k = 19; k >= 1; k -= 2) cosine = 1.0 - cosine * r2 / (k * (k + 1));
  switch (quadrant % 4) {
    case 0:
      return {sine, cosine};
    case 1:
      return {cosine, -sine};
    case 2:
      return {-sine, -cosine};
    default:
      return {-cosine, sine};
  }
}

std::vector<double> Frequencies(const RopeSpec& spec) {
  const int num_pairs = spec.rope_dim / 2;
  const double log_theta = LogOf(spec.theta);
  std::vector<double> frequencies(static_cast<size_t>(num_pairs));
  for (int i = 0; i < num_pairs; ++i) {
    const double divisor = spec.divisors.empty() ? 1.0 : static_cast<double>(spec.divisors[i]);
    CHECK(divisor >= 1e-3 && divisor < 1e30) << "rope divisor " << i << " is " << divisor;
    frequencies[i] = ExpOf(-2.0 * i / spec.rope_dim * log_theta) / divisor;
  }
  return frequencies;
}

}  // namespace

void BuildRopeTables(const RopeSpec& spec, int64_t num_positions, float* cosines, float* sines) {
  CHECK(spec.rope_dim >= 0 && spec.rope_dim % 2 == 0) << "rope_dim is " << spec.rope_dim;
  CHECK(spec.theta >= 1.0 && spec.theta < 1e30) << "theta is " << spec.theta;
  CHECK(spec.divisors.empty() || spec.divisors.size() * 2 == static_cast<size_t>(spec.rope_dim))
      << spec.divisors.size() << " divisors for rope_dim " << spec.rope_dim;
  const std::vector<double> frequencies = Frequencies(spec);
  for (int64_t position = 0; position < num_positions; ++position) {
    for (const double frequency : frequencies) {
      const SinCos value = SinCosOf(static_cast<double>(position) * frequency);
      *cosines++ = static_cast<float>(value.cosine);
      *sines++ = static_cast<float>(value.sine);
    }
  }
}

}  // namespace tessera
