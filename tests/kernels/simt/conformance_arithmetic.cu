#include <bit>
#include <cmath>
#include <random>

#include "kernels/cuda/instr.h"
#include "kernels/cuda/launch.h"
#include "tests/kernels/simt/conformance.h"

namespace tessera::conformance {
namespace {

using namespace tessera::TESSERA_CUDA_NAMESPACE;

constexpr int kThreads = 128;

unsigned NumBlocks(size_t size) { return static_cast<unsigned>((size + kThreads - 1) / kThreads); }

__device__ int GlobalIndex() { return static_cast<int>(blockIdx.x * kThreads + threadIdx.x); }

// What one lane computes from up to three floats.
enum class Op { kFma, kMul, kAdd, kDiv, kSqrt, kExp2, kLog2, kRcp, kTanh };

template <Op kOp>
__device__ float Apply(float a, float b, float c) {
  if constexpr (kOp == Op::kFma) return FmaRn(a, b, c);
  if constexpr (kOp == Op::kMul) return MulRn(a, b);
  if constexpr (kOp == Op::kAdd) return AddRn(a, b);
  if constexpr (kOp == Op::kDiv) return DivRn(a, b);
  if constexpr (kOp == Op::kSqrt) return SqrtRn(a);
  if constexpr (kOp == Op::kExp2) return Exp2Approx(a);
  if constexpr (kOp == Op::kLog2) return Log2Approx(a);
  if constexpr (kOp == Op::kRcp) return RcpApprox(a);
  if constexpr (kOp == Op::kTanh) return TanhApprox(a);
}

template <Op kOp>
__global__ void ApplyKernel(const float* a, const float* b, const float* c, float* out, int size) {
  const int i = GlobalIndex();
  if (i < size) out[i] = Apply<kOp>(a[i], b[i], c[i]);
}

template <Op kOp>
std::vector<float> ApplyOnDevice(const std::vector<float>& a, const std::vector<float>& b,
                                 const std::vector<float>& c) {
  const DeviceArray<float> device_a(a), device_b(b), device_c(c), out(a.size());
  const Stream stream;
  Launch<ApplyKernel<kOp>>(stream, NumBlocks(a.size()), kThreads, 0, device_a.data(),
                           device_b.data(), device_c.data(), out.data(),
                           static_cast<int>(a.size()));
  stream.Synchronize();
  return out.ToHost();
}

// Random bit patterns: every exponent, subnormals, infinities and NaNs among them.
std::vector<float> RandomFloats(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(size);
  for (float& value : values) value = std::bit_cast<float>(static_cast<uint32_t>(random()));
  const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 0x1p-149f, 0x1p-126f, 1.0f};
  for (size_t i = 0; i < 64; ++i) values[i] = special[seed % 2 == 0 ? i % 8 : i / 8];
  return values;
}

bool SameFloat(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (a != a && b != b);
}

template <Op kOp>
void CheckExact(Checker& checker, float (*expected)(float, float, float)) {
  constexpr size_t kSize = 20000;
  const auto a = RandomFloats(kSize, 1), b = RandomFloats(kSize, 2), c = RandomFloats(kSize, 3);
  const std::vector<float> got = ApplyOnDevice<kOp>(a, b, c);
  for (size_t i = 0; i < kSize; ++i) {
    const float want = expected(a[i], b[i], c[i]);
    checker.Expect(SameFloat(got[i], want), std::to_string(a[i]) + ", " + std::to_string(b[i]) +
                                                ", " + std::to_string(c[i]) + ": got " +
                                                std::to_string(got[i]) + ", expected " +
                                                std::to_string(want));
  }
}

void CheckExactArithmetic(Checker& checker) {
  CheckExact<Op::kFma>(checker, [](float a, float b, float c) { return std::fma(a, b, c); });
  CheckExact<Op::kMul>(checker, [](float a, float b, float) { return a * b; });
  CheckExact<Op::kAdd>(checker, [](float a, float b, float) { return a + b; });
  CheckExact<Op::kDiv>(checker, [](float a, float b, float) { return a / b; });
  CheckExact<Op::kSqrt>(checker, [](float a, float, float) { return std::sqrt(a); });
}

std::vector<float> Range(float first, float last, size_t size) {
  std::vector<float> values(size);
  for (size_t i = 0; i < size; ++i) {
    const float share = static_cast<float>(i) / static_cast<float>(size - 1);
    values[i] = first + (last - first) * share;
  }
  return values;
}

// |got - want| <= relative |want| + absolute, over [first, last].
template <Op kOp>
void CheckNear(Checker& checker, float first, float last, double relative, double absolute,
               double (*expected)(double)) {
  const std::vector<float> x = Range(first, last, 20001);
  const std::vector<float> got = ApplyOnDevice<kOp>(x, x, x);
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = expected(x[i]);
    checker.Expect(std::fabs(got[i] - want) <= relative * std::fabs(want) + absolute,
                   "f(" + std::to_string(x[i]) + "): got " + std::to_string(got[i]) +
                       ", expected " + std::to_string(want));
  }
}

// Bounds are those of the PTX ISA for ex2, lg2, rcp and tanh .approx.
void CheckApproximations(Checker& checker) {
  const auto exp2 = [](double x) { return std::exp2(x); };
  const auto log2 = [](double x) { return std::log2(x); };
  CheckNear<Op::kExp2>(checker, -125.0f, 20.0f, 0x1p-22, 0, exp2);
  CheckNear<Op::kLog2>(checker, 0.5f, 2.0f, 0, 0x1p-22, log2);
  CheckNear<Op::kLog2>(checker, 2.0f, 1e6f, 0x1p-22, 0, log2);
  CheckNear<Op::kRcp>(checker, 0.01f, 1e4f, 0x1p-23, 0, [](double x) { return 1 / x; });
  CheckNear<Op::kTanh>(checker, -6.0f, 6.0f, 0x1p-10, 0x1p-20,
                       [](double x) { return std::tanh(x); });
}

void CheckApproximationLimits(Checker& checker) {
  const std::vector<float> exp2_in = {-INFINITY, -127.5f, -150.0f, 0.0f, 10.0f, 128.0f, INFINITY};
  const std::vector<float> exp2_out = {0, 0, 0, 1, 1024, INFINITY, INFINITY};
  const std::vector<float> got = ApplyOnDevice<Op::kExp2>(exp2_in, exp2_in, exp2_in);
  for (size_t i = 0; i < got.size(); ++i) {
    checker.ExpectEqual(got[i], exp2_out[i], "exp2", static_cast<long>(i));
  }
  const std::vector<float> rcp_in = {INFINITY, 0.0f, 0x1p-130f, 4.0f, 0x1p127f};
  const std::vector<float> rcp_out = {0, INFINITY, INFINITY, 0.25f, 0};
  const std::vector<float> rcp = ApplyOnDevice<Op::kRcp>(rcp_in, rcp_in, rcp_in);
  for (size_t i = 0; i < rcp.size(); ++i) {
    checker.ExpectEqual(rcp[i], rcp_out[i], "rcp", static_cast<long>(i));
  }
}

// ---- 16-bit floats ----

template <typename T>
__global__ void ToFloatKernel(float* out) {
  const int i = GlobalIndex();
  out[i] = ToFloat(T{static_cast<uint16_t>(i)});
}

template <typename T>
__global__ void RoundKernel(const float* in, uint16_t* rounded, uint16_t* finite, uint32_t* packed,
                            int size) {
  const int i = GlobalIndex();
  if (i >= size) return;
  rounded[i] = FromFloat<T>(in[i]).bits;
  finite[i] = FromFloatFinite<T>(in[i]).bits;
  packed[i] = Pack2<T>(in[i], in[size - 1 - i]);
}

template <typename T>
__global__ void UnpackKernel(const uint32_t* in, float2* out) {
  out[threadIdx.x] = Unpack2<T>(in[threadIdx.x]);
}

template <typename T>
struct Format;
template <>
struct Format<Bf16> {
  static constexpr int kMantissaBits = 7, kBias = 127;
};
template <>
struct Format<Fp16> {
  static constexpr int kMantissaBits = 10, kBias = 15;
};

// By the formats' definition: sign, exponent, fraction.
template <typename T>
double ValueOfBits(uint16_t bits) {
  constexpr int kMantissa = Format<T>::kMantissaBits;
  const int exponent = (bits & 0x7FFF) >> kMantissa;
  const int fraction = bits & ((1 << kMantissa) - 1);
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  constexpr int kSpecial = (1 << (15 - kMantissa)) - 1;
  if (exponent == kSpecial) return fraction == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - Format<T>::kBias - kMantissa);
  return sign * std::ldexp((1 << kMantissa) + fraction, exponent - Format<T>::kBias - kMantissa);
}

// The nearest value by search, ties to the even pattern; past the midpoint above the largest finite
// value infinity.
template <typename T>
uint16_t NearestBits(double value) {
  if (value != value) return 0x7FFF;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  constexpr int kInfinity = ((1 << (15 - Format<T>::kMantissaBits)) - 1)
                            << Format<T>::kMantissaBits;
  int low = 0, high = kInfinity;  // ValueOfBits(low) <= magnitude < the one after high
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (ValueOfBits<T>(static_cast<uint16_t>(middle)) <= magnitude ? low : high) = middle;
  }
  if (std::isinf(value)) return static_cast<uint16_t>(sign | kInfinity);
  const double below = ValueOfBits<T>(static_cast<uint16_t>(low));
  const double step = below - ValueOfBits<T>(static_cast<uint16_t>(low == 0 ? 0 : low - 1));
  const double above =
      high == kInfinity ? below + step : ValueOfBits<T>(static_cast<uint16_t>(high));
  const double middle = (below + above) / 2;
  const bool up = magnitude > middle || (magnitude == middle && low % 2 == 1);
  return static_cast<uint16_t>(sign | (up ? high : low));
}

template <typename T>
void CheckToFloat(Checker& checker) {
  const DeviceArray<float> out(65536);
  const Stream stream;
  Launch<ToFloatKernel<T>>(stream, 65536 / kThreads, kThreads, 0, out.data());
  stream.Synchronize();
  const std::vector<float> got = out.ToHost();
  for (int i = 0; i < 65536; ++i) {
    const auto want = static_cast<float>(ValueOfBits<T>(static_cast<uint16_t>(i)));
    checker.Expect(SameFloat(got[i], want), "ToFloat of bits " + std::to_string(i));
  }
}

// Every value of the format, the points half way to the next and their neighbours, random floats.
template <typename T>
std::vector<float> RoundingInputs() {
  std::vector<float> inputs = RandomFloats(20000, 5);
  for (int bits = 0; bits < 65536; bits += 7) {
    const auto value = static_cast<float>(ValueOfBits<T>(static_cast<uint16_t>(bits)));
    const auto next = static_cast<float>(ValueOfBits<T>(static_cast<uint16_t>(bits + 1)));
    const float middle = value / 2 + next / 2;
    inputs.insert(inputs.end(), {value, middle, std::nextafter(middle, INFINITY),
                                 std::nextafter(middle, -INFINITY)});
  }
  return inputs;
}

template <typename T>
void CheckRounding(Checker& checker) {
  const std::vector<float> inputs = RoundingInputs<T>();
  const size_t size = inputs.size();
  const DeviceArray<float> in(inputs);
  const DeviceArray<uint16_t> rounded(size), finite(size);
  const DeviceArray<uint32_t> packed(size);
  const Stream stream;
  Launch<RoundKernel<T>>(stream, NumBlocks(size), kThreads, 0, in.data(), rounded.data(),
                         finite.data(), packed.data(), static_cast<int>(size));
  stream.Synchronize();
  const auto got = rounded.ToHost(), got_finite = finite.ToHost();
  const auto got_packed = packed.ToHost();
  const uint16_t max_bits = NearestBits<T>(kMaxFinite<T>);
  for (size_t i = 0; i < size; ++i) {
    const auto index = static_cast<long>(i);
    const uint16_t want = NearestBits<T>(inputs[i]);
    const bool overflows = (want & 0x7FFF) > max_bits;
    const uint16_t want_finite =
        inputs[i] != inputs[i]
            ? 0
            : static_cast<uint16_t>(overflows ? (want & 0x8000) | max_bits : want);
    checker.ExpectEqual(got[i], want, "FromFloat", index);
    checker.ExpectEqual(got_finite[i], want_finite, "FromFloatFinite", index);
    const uint32_t want_packed = want | uint32_t{NearestBits<T>(inputs[size - 1 - i])} << 16;
    checker.ExpectEqual(got_packed[i], want_packed, "Pack2", index);
  }
}

template <typename T>
void CheckUnpack(Checker& checker) {
  std::vector<uint32_t> pairs(32);
  for (uint32_t i = 0; i < 32; ++i) pairs[i] = (0x3C00 + i) | (0x4100 + 3 * i) << 16;
  const DeviceArray<uint32_t> in(pairs);
  const DeviceArray<float2> out(32);
  const Stream stream;
  Launch<UnpackKernel<T>>(stream, 1, 32, 0, in.data(), out.data());
  stream.Synchronize();
  const std::vector<float2> got = out.ToHost();
  for (int i = 0; i < 32; ++i) {
    const double low = ValueOfBits<T>(static_cast<uint16_t>(pairs[i]));
    const double high = ValueOfBits<T>(static_cast<uint16_t>(pairs[i] >> 16));
    checker.ExpectEqual<double>(got[i].x, low, "low", i);
    checker.ExpectEqual<double>(got[i].y, high, "high", i);
  }
}

template <typename T>
__global__ void AddPairsKernel(const uint32_t* a, const uint32_t* b, uint32_t* out, int size) {
  const int i = GlobalIndex();
  if (i < size) out[i] = AddPairs<T>(a[i], b[i]);
}

// Of any bits; every other pair is near 1, so that sums must be rounded.
std::vector<uint32_t> RandomPairs(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> pairs(size);
  for (size_t i = 0; i < size; ++i) {
    const auto bits = static_cast<uint32_t>(random());
    pairs[i] = i % 2 == 0 ? bits : 0x3C003C00u ^ (bits & 0x83FF83FFu);
  }
  return pairs;
}

// A sum of two in float64 is so close that rounding it again is rounding the sum itself.
template <typename T>
void CheckAddPairs(Checker& checker) {
  constexpr size_t kSize = 40000;
  std::vector<uint32_t> a = RandomPairs(kSize, 1), b = RandomPairs(kSize, 2);
  for (size_t i = 0; i < 1000; ++i) b[i] = a[i] ^ 0x80008000u;  // sums of 0, or not a number
  const DeviceArray<uint32_t> device_a(a), device_b(b), out(kSize);
  const Stream stream;
  Launch<AddPairsKernel<T>>(stream, NumBlocks(kSize), kThreads, 0, device_a.data(), device_b.data(),
                            out.data(), static_cast<int>(kSize));
  stream.Synchronize();
  const std::vector<uint32_t> got = out.ToHost();
  for (size_t i = 0; i < kSize; ++i) {
    for (const int shift : {0, 16}) {
      const auto x = static_cast<uint16_t>(a[i] >> shift), y = static_cast<uint16_t>(b[i] >> shift);
      const uint16_t want = NearestBits<T>(ValueOfBits<T>(x) + ValueOfBits<T>(y));
      checker.ExpectEqual(static_cast<uint16_t>(got[i] >> shift), want, "AddPairs",
                          static_cast<long>(i));
    }
  }
}

}  // namespace

std::vector<Case> ArithmeticCases() {
  return {{"exactly rounded arithmetic", CheckExactArithmetic},
          {"approximations", CheckApproximations},
          {"approximations at their limits", CheckApproximationLimits},
          {"bf16 to float", CheckToFloat<Bf16>},
          {"fp16 to float", CheckToFloat<Fp16>},
          {"float to bf16", CheckRounding<Bf16>},
          {"float to fp16", CheckRounding<Fp16>},
          {"unpack bf16", CheckUnpack<Bf16>},
          {"unpack fp16", CheckUnpack<Fp16>},
          {"add pairs of bf16", CheckAddPairs<Bf16>},
          {"add pairs of fp16", CheckAddPairs<Fp16>}};
}

}  // namespace tessera::conformance
