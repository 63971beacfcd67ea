#include "model/rope_table.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace tessera {
namespace {

constexpr double kLn2High = 0x1.62e42feep-1;  // 32 bits, so that n * kLn2High is exact
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kInverseLn2 = 0x1.71547652b82fep0;

// Adding and subtracting it rounds to the nearest integer, for |x| < 2^51.
constexpr double kRoundingShift = 0x1.8p52;

// pi / 2 in three parts; n times each of the first two is exact for n < 2^20.
constexpr double kHalfPiHigh = 0x1.921fb544p0;
constexpr double kHalfPiMiddle = 0x1.0b4611a6p-34;
constexpr double kHalfPiLow = 0x1.3198a2e037073p-69;
constexpr double kInverseHalfPi = 0x1.45f306dc9c883p-1;

// Natural logarithm of a normal x > 0: x = 2^e m with m in [sqrt(1/2), sqrt(2)), then
// log m = 2 atanh((m - 1) / (m + 1)) by its series.
double NaturalLog(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  int exponent = static_cast<int>(bits >> 52) - 1023;
  bits = (bits & 0xFFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
  double m;
  std::memcpy(&m, &bits, sizeof(m));
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double t = (m - 1) / (m + 1);
  const double t2 = t * t;
  double series = 0;
  for (int k = 21; k >= 1; k -= 2) series = series * t2 + 1.0 / k;
  return exponent * kLn2High + (exponent * kLn2Low + 2 * t * series);
}

// e^x for -700 < x < 700: 2^n times the Taylor series of the rest, |rest| <= ln(2) / 2.
double Exponential(double x) {
  const double n = (x * kInverseLn2 + kRoundingShift) - kRoundingShift;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double series = 1;
  for (int k = 14; k >= 1; --k) series = 1 + series * r / k;
  const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof(power));
  return series * power;
}

struct SinCos {
  double sin = 0;
  double cos = 0;
};

// Taylor coefficients of cos (parity 0) and sin(r) / r (parity 1) in r^2: (-1)^k / (2k + parity)!
constexpr std::array<double, 10> TaylorCoefficients(int parity) {
  std::array<double, 10> coefficients = {};
  double factorial = 1;
  for (int k = 0; k < 10; ++k) {
    coefficients[k] = (k % 2 == 0 ? 1 : -1) / factorial;
    factorial *= (2 * k + parity + 1) * (2 * k + parity + 2);
  }
  return coefficients;
}
constexpr std::array<double, 10> kCosCoefficients = TaylorCoefficients(0);
constexpr std::array<double, 10> kSinCoefficients = TaylorCoefficients(1);

// On |r| <= pi / 4, where 10 terms leave less than 2^-60.
SinCos SinCosReduced(double r) {
  const double r2 = r * r;
  double sin = 0;
  double cos = 0;
  for (int k = 9; k >= 0; --k) {
    sin = sin * r2 + kSinCoefficients[k];
    cos = cos * r2 + kCosCoefficients[k];
  }
  return {sin * r, cos};
}

// For 0 <= angle < 2^50; to full accuracy below 2^20.
SinCos SineAndCosine(double angle) {
  const double n = (angle * kInverseHalfPi + kRoundingShift) - kRoundingShift;
  const double r = ((angle - n * kHalfPiHigh) - n * kHalfPiMiddle) - n * kHalfPiLow;
  const SinCos reduced = SinCosReduced(r);
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      return reduced;
    case 1:
      return {reduced.cos, -reduced.sin};
    case 2:
      return {-reduced.sin, -reduced.cos};
    default:
      return {-reduced.cos, reduced.sin};
  }
}

}  // namespace

void FillRopeTables(const RopeTableParams& params, float* cos, float* sin) {
  const int num_pairs = params.rope_dim / 2;
  CHECK(params.divisors.empty() || params.divisors.size() == static_cast<size_t>(num_pairs));
  std::vector<double> frequencies(static_cast<size_t>(num_pairs));
  for (int i = 0; i < num_pairs; ++i) {
    const double divisor = params.divisors.empty() ? 1.0 : params.divisors[i];
    const double exponent = -2.0 * i / params.rope_dim * NaturalLog(params.base);
    frequencies[i] = Exponential(exponent) / divisor / params.factor;
  }
  for (int position = 0; position < params.num_positions; ++position) {
    for (int i = 0; i < num_pairs; ++i) {
      const SinCos value = SineAndCosine(position * frequencies[i]);
      *cos++ = static_cast<float>(value.cos);
      *sin++ = static_cast<float>(value.sin);
    }
  }
}

}  // namespace tessera
