// Embedding, norms, gated activations and gathering against definitions in double, within bounds
// derived from the roundings that the ops state; and each row's bits alone and in a batch.

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "kernels/cuda/activation.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/norm.h"
#include "tests/kernels/cuda/op_cases.h"
#include "tests/kernels/cuda/op_inputs.h"

namespace tessera::conformance {
namespace {

template <typename T>
std::vector<uint16_t> Bits(const std::vector<T>& values) {
  std::vector<uint16_t> bits;
  for (const T value : values) bits.push_back(value.bits);
  return bits;
}

// ---- norms ----

struct NormInput {
  int num_rows = 0;
  int dim = 0;
  std::vector<float> x, addend, weight, bias;
};

NormInput MakeNormInput(int num_rows, int dim, uint32_t seed) {
  const auto size = static_cast<size_t>(num_rows) * static_cast<size_t>(dim);
  NormInput input{num_rows,
                  dim,
                  RandomFloats(size, 3.0f, seed),
                  RandomFloats(size, 1.0f, seed + 1),
                  RandomFloats(static_cast<size_t>(dim), 1.0f, seed + 2),
                  RandomFloats(static_cast<size_t>(dim), 1.0f, seed + 3)};
  for (float& x : input.x) x += 1.0f;  // a mean that is not 0
  return input;
}

NormInput RowOf(const NormInput& input, int row) {
  NormInput alone = input;
  const auto begin = int64_t{row} * input.dim;
  alone.num_rows = 1;
  alone.x.assign(input.x.begin() + begin, input.x.begin() + begin + input.dim);
  alone.addend.assign(input.addend.begin() + begin, input.addend.begin() + begin + input.dim);
  return alone;
}

template <typename T>
struct NormOutput {
  std::vector<T> out;
  std::vector<float> residual;
};

constexpr float kEpsilon = 1e-5f;

template <typename T>
NormOutput<T> RunNorm(const NormInput& input, bool centered, bool adds) {
  const DeviceArray<float> x(input.x), weight(input.weight), bias(input.bias);
  const DeviceArray<T> addend(Rounded<T>(input.addend)), out(input.x.size());
  NormParams params;
  params.x = x.data();
  params.addend = adds ? addend.data() : nullptr;
  params.weight = weight.data();
  params.bias = centered ? bias.data() : nullptr;
  params.epsilon = kEpsilon;
  params.num_rows = input.num_rows;
  params.dim = input.dim;
  params.out = out.data();
  const Stream stream;
  centered ? LayerNorm<T>(params, stream) : RmsNorm<T>(params, stream);
  stream.Synchronize();
  return {out.ToHost(), x.ToHost()};
}

// |error| <= u_T |y| + fp32 part. Sums of squares have relative error (dim / 256 + 13) u, of which
// the square root leaves half; 8 more roundings. The mean is off by (dim / 256 + 14) u max|x|.
template <typename T>
void CheckNormRow(Checker& checker, const NormInput& input, const float* x, const T* out,
                  bool centered) {
  const auto dim = static_cast<size_t>(input.dim);
  double mean = 0, max = 0, variance = 0;
  for (size_t i = 0; i < dim; ++i) {
    mean += centered ? double{x[i]} / input.dim : 0;
    max = std::max(max, std::fabs(double{x[i]}));
  }
  for (size_t i = 0; i < dim; ++i) variance += (x[i] - mean) * (x[i] - mean) / input.dim;
  const double scale = 1 / std::sqrt(variance + double{kEpsilon});
  const double terms = input.dim / 256.0;
  for (size_t i = 0; i < dim; ++i) {
    const double scaled = (x[i] - mean) * scale * input.weight[i];
    const double want = scaled + (centered ? input.bias[i] : 0.0f);
    const double mean_error = centered ? (terms + 14) * kUnitRoundoffF32 * max : 0;
    const double f32_error = std::fabs(scaled) * (terms + 21) * kUnitRoundoffF32 +
                             std::fabs(scale * input.weight[i]) * mean_error;
    ExpectNear(checker, ToFloat(out[i]), want, RoundingBound<T>(want) + 1.01 * f32_error + 1e-30,
               "element", i);
  }
}

template <typename T, bool kCentered>
void CheckNorm(Checker& checker) {
  for (const int dim : {4, 32, 576, 1000, 1024, 4096, 5120}) {
    for (const bool adds : {false, true}) {
      const NormInput input = MakeNormInput(5, dim, static_cast<uint32_t>(dim));
      const NormOutput<T> output = RunNorm<T>(input, kCentered, adds);
      for (size_t i = 0; i < input.x.size(); ++i) {
        const float addend = adds ? ToFloat(FromFloat<T>(input.addend[i])) : 0.0f;
        checker.ExpectEqual(output.residual[i], input.x[i] + addend, "residual",
                            static_cast<long>(i));
      }
      for (int row = 0; row < input.num_rows; ++row) {
        const auto begin = static_cast<size_t>(row * dim);
        CheckNormRow(checker, input, &output.residual[begin], &output.out[begin], kCentered);
        const NormOutput<T> alone = RunNorm<T>(RowOf(input, row), kCentered, adds);
        checker.Expect(
            std::equal(alone.out.begin(), alone.out.end(), output.out.begin() + row * dim,
                       [](T a, T b) { return a.bits == b.bits; }),
            "a row alone has other bits");
      }
    }
  }
}

// ---- gated activations ----

double GateExact(Activation activation, double gate) {
  if (activation == Activation::kSwiGlu) return gate / (1 + std::exp(-gate));
  const double inner = std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate);
  return gate / (1 + std::exp(-2 * inner));  // 0.5 (1 + tanh(x)) = sigmoid(2 x)
}

template <typename T>
std::vector<T> RunActivation(Activation activation, const std::vector<float>& gate_up, int num_rows,
                             int dim) {
  const DeviceArray<T> device_gate_up(Rounded<T>(gate_up)), out(gate_up.size() / 2);
  const Stream stream;
  GatedActivation<T>(activation, {device_gate_up.data(), num_rows, dim, out.data()}, stream);
  stream.Synchronize();
  return out.ToHost();
}

// The exponent x of e^x carries 5 roundings of its cubic polynomial, so that sigmoid has relative
// error |x| 5 u; exp2 and rcp approximations and the rest 16 u; then one rounding to T. Below
// e^-88 the sigmoid is 0.
template <typename T>
void CheckActivation(Checker& checker) {
  constexpr int kRows = 6;
  for (const auto activation : {Activation::kSwiGlu, Activation::kGeGlu}) {
    for (const int dim : {8, 64, 1536, 2056}) {
      const auto size = static_cast<size_t>(kRows * 2 * dim);
      const std::vector<float> gate_up =
          Widened(Rounded<T>(RandomFloats(size, 4.0f, static_cast<uint32_t>(dim))));
      const std::vector<T> out = RunActivation<T>(activation, gate_up, kRows, dim);
      for (int i = 0; i < kRows * dim; ++i) {
        const auto at = static_cast<size_t>(i / dim * 2 * dim + i % dim);
        const double gate = gate_up[at];
        const double up = gate_up[at + static_cast<size_t>(dim)];
        const double want = GateExact(activation, gate) * up;
        const double exponent = activation == Activation::kSwiGlu
                                    ? std::fabs(gate)
                                    : 1.6 * std::fabs(gate + 0.044715 * gate * gate * gate);
        const double f32_error = (5 * exponent + 16) * kUnitRoundoffF32 * std::fabs(want);
        ExpectNear(checker, ToFloat(out[static_cast<size_t>(i)]), want,
                   RoundingBound<T>(want) + 1.01 * f32_error + 1e-35, "element",
                   static_cast<size_t>(i));
      }
      const std::vector<float> last_row(gate_up.end() - 2 * dim, gate_up.end());
      const auto alone = Bits(RunActivation<T>(activation, last_row, 1, dim));
      checker.Expect(alone == Bits(std::vector<T>(out.end() - dim, out.end())),
                     "a row alone has other bits");
    }
  }
}

// ---- embedding and gathering ----

void CheckEmbed(Checker& checker) {
  const std::vector<TokenId> tokens = {17, 0, 20, 8, 7, 17, 3};
  for (const DType file_type : kAllDTypes) {
    for (const int cols : {32, 96, 256, 576, 1280}) {
      if (cols % BlockElements(file_type) != 0) continue;
      const FileWeight weight = RandomWeight(file_type, 21, cols, static_cast<uint32_t>(cols));
      const DType stored = IsQuantized(file_type) ? StoredType<Bf16>(file_type) : file_type;
      const DeviceWeight table(weight, stored);
      const DeviceArray<TokenId> device_tokens(tokens);
      const DeviceArray<float> out(tokens.size() * static_cast<size_t>(cols));
      const Stream stream;
      Embed({table.view(), device_tokens.data(), static_cast<int>(tokens.size()), out.data()},
            stream);
      stream.Synchronize();
      const std::vector<float> got = out.ToHost(), values = weight.Dequantized();
      for (size_t i = 0; i < got.size(); ++i) {
        const auto width = static_cast<size_t>(cols);
        const float want = values[static_cast<size_t>(tokens[i / width]) * width + i % width];
        checker.ExpectEqual(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want),
                            Name(file_type).data(), static_cast<long>(i));
      }
    }
  }
}

void CheckGather(Checker& checker) {
  const std::vector<int32_t> rows = {5, 0, 5, 12, 3};
  for (const int row_floats : {4, 132, 1152}) {
    const std::vector<float> x =
        RandomFloats(static_cast<size_t>(13 * row_floats), 1.0f, static_cast<uint32_t>(row_floats));
    const DeviceArray<float> device_x(x), out(rows.size() * static_cast<size_t>(row_floats));
    const DeviceArray<int32_t> device_rows(rows);
    const Stream stream;
    GatherRows({device_x.data(), device_rows.data(), static_cast<int>(rows.size()),
                int64_t{row_floats} * 4, out.data()},
               stream);
    stream.Synchronize();
    const std::vector<float> got = out.ToHost();
    for (size_t i = 0; i < got.size(); ++i) {
      const auto width = static_cast<size_t>(row_floats);
      checker.ExpectEqual(got[i], x[static_cast<size_t>(rows[i / width]) * width + i % width],
                          "gathered", static_cast<long>(i));
    }
  }
}

}  // namespace

std::vector<Case> ElementwiseCases() {
  return {{"rms norm, bf16", CheckNorm<Bf16, false>},
          {"rms norm, fp16", CheckNorm<Fp16, false>},
          {"layer norm, bf16", CheckNorm<Bf16, true>},
          {"layer norm, fp16", CheckNorm<Fp16, true>},
          {"swiglu and geglu, bf16", CheckActivation<Bf16>},
          {"swiglu and geglu, fp16", CheckActivation<Fp16>},
          {"embed: dequantised rows to the bit", CheckEmbed},
          {"gather rows", CheckGather}};
}

}  // namespace tessera::conformance
