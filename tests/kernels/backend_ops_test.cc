#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend_cases.h"
#include "tests/kernels/op_runner.h"

// Every op on every backend against the reference, which computes in double. Tolerances are bounds
// of the rounding that docs/numerics.md allows, not fits.

namespace tessera {
namespace {

constexpr double kUnit = 0x1p-24;  // relative rounding error of one fp32 operation

// |actual - expected| <= relative * |expected| + absolute, element by element.
void ExpectNear(const Floats& actual, const Floats& expected, double relative, double absolute,
                const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double bound = relative * std::fabs(expected[i]) + absolute;
    const double error = std::fabs(double{actual[i]} - double{expected[i]});
    if (error <= bound) continue;
    FAIL() << what << ", element " << i << ": " << actual[i] << " for " << expected[i]
           << ", off by " << error << " where " << bound << " is allowed";
  }
}

class BackendOpsTest : public testing::TestWithParam<BackendCase> {
 protected:
  double LinearBound(DType type, const float* x, const float* w, int64_t cols, double exact) const;

  // The same inputs for the backend and the reference.
  Floats Rounded(Floats values) const { return RoundToActivations(*backend_, std::move(values)); }
  bool HasDim(int64_t dim) const { return dim % GetParam().dim_multiple == 0; }

  const std::unique_ptr<Backend> backend_ = GetParam().make();
  const std::unique_ptr<Backend> reference_ = MakeReferenceBackend();
  const DType type_ = ActivationType(*backend_);
  // Of rounding a result to an activation: relative, and absolute below fp16's normal range. On the
  // CPU activations are the fp32 that ops compute with.
  const double rounding_ = type_ == DType::kF32 ? 0 : UnitRoundoff(type_);
  const double underflow_ = type_ == DType::kF16 ? 0x1p-25 : 0;
};

TEST_P(BackendOpsTest, AllocatesZeroedAlignedMemory) {
  for (const size_t size_bytes : {size_t{0}, size_t{1}, size_t{64}, size_t{100'000}}) {
    const DeviceBuffer buffer = backend_->Allocate(size_bytes);
    EXPECT_EQ(buffer.size_bytes(), size_bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.As<void>()) % 64, 0u);
    std::vector<uint8_t> bytes(size_bytes, 1);
    backend_->Download(buffer.As<void>(), size_bytes, bytes.data());
    backend_->Synchronize();
    EXPECT_EQ(bytes, std::vector<uint8_t>(size_bytes, 0));
  }
}

constexpr int64_t kDims[] = {1, 15, 16, 17, 64, 576, 1000, 2056};

TEST_P(BackendOpsTest, RmsNorm) {
  for (const int64_t dim : kDims) {
    if (!HasDim(dim)) continue;
    for (const int64_t num_rows : {1, 3, 40}) {
      const Floats x = ActivationFloats(num_rows * dim, 1);
      const Floats weight = NormalFloats(dim, 2);
      // Half a lane's chain and the tree under the square root, then a few single operations.
      const double tolerance = (static_cast<double>(dim) / 32 + 8) * kUnit;
      ExpectNear(RunRmsNorm(backend_.get(), x, weight, 1e-5f),
                 RunRmsNorm(reference_.get(), x, weight, 1e-5f), tolerance + rounding_, underflow_,
                 "dim " + std::to_string(dim));
      const Floats added = Rounded(x);
      const Floats residual = NormalFloats(num_rows * dim, 3);
      ExpectNear(RunAddRmsNorm(backend_.get(), added, residual, weight, 1e-5f),
                 RunAddRmsNorm(reference_.get(), added, residual, weight, 1e-5f),
                 tolerance + rounding_, underflow_, "add, dim " + std::to_string(dim));
    }
  }
}

TEST_P(BackendOpsTest, RmsNormOfZerosIsZero) {
  const Floats zeros(64, 0.0f);
  EXPECT_EQ(RunRmsNorm(backend_.get(), zeros, NormalFloats(32, 1), 1e-5f), zeros);
}

TEST_P(BackendOpsTest, SwiGlu) {
  for (const int64_t dim : kDims) {
    if (!HasDim(dim)) continue;
    Floats gate_up = Rounded(ActivationFloats(6 * dim, 4));
    gate_up[0] = -200.0f;  // the sigmoid underflows
    gate_up[static_cast<size_t>(dim) / 2] = 200.0f;
    // The sigmoid is good to 2.5 ulp, then two products; it flushes below 2^-126. A device's
    // exponential takes a rounded exponent, at most 200 log2(e) here, as it does of 1 ulp besides.
    const double approximation = GetParam().has_cpu_bits ? 8 * kUnit : 200 * kUnit + 12 * kUnit;
    ExpectNear(RunSwiGlu(backend_.get(), gate_up, dim), RunSwiGlu(reference_.get(), gate_up, dim),
               approximation + rounding_, 1e-34 + underflow_, "dim " + std::to_string(dim));
  }
}

TEST_P(BackendOpsTest, GatherRows) {
  const int64_t dim = 33 * GetParam().dim_multiple;
  const auto size = static_cast<size_t>(dim);
  const Floats x = NormalFloats(10 * dim, 5);
  const std::vector<int32_t> rows = {9, 0, 0, 4};
  const Floats out = RunGatherRows(backend_.get(), x, dim, rows);
  for (size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(out[i], x[static_cast<size_t>(rows[i / size]) * size + i % size]);
  }
}

TEST_P(BackendOpsTest, EmbedGivesTheDequantisedRowsExactly) {
  for (const DType type : kAllDTypes) {
    constexpr int64_t kRows = 70, kCols = 512;
    const auto weight = MakeWeight(backend_.get(), type, kRows, kCols, 6);
    Floats values = DequantizedWeight(type, kRows, kCols, 6);
    if (!IsQuantized(type)) values = Rounded(std::move(values));  // as they are stored
    const std::vector<TokenId> tokens = {69, 0, 31, 32, 0, 64};
    const Floats out = RunEmbed(backend_.get(), *weight, tokens);
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(out[i], values[static_cast<size_t>(tokens[i / kCols]) * kCols + i % kCols])
          << Name(type) << " element " << i;
    }
  }
}

// Of a row x and one row w of a weight, by blocks of 32 columns.
struct BlockSums {
  double max_x = 0, sum_x = 0, max_w = 0, sum_w = 0, sum_xw = 0;
};

BlockSums SumBlock(const float* x, const float* w, int64_t size) {
  BlockSums sums;
  for (int64_t k = 0; k < size; ++k) {
    sums.max_x = std::max(sums.max_x, std::fabs(double{x[k]}));
    sums.max_w = std::max(sums.max_w, std::fabs(double{w[k]}));
    sums.sum_x += std::fabs(double{x[k]});
    sums.sum_w += std::fabs(double{w[k]});
    sums.sum_xw += std::fabs(double{x[k]} * double{w[k]});
  }
  return sums;
}

// How far row x times one weight row may be off on the CPU: fp32 accumulation, and for quantised
// weights the rounding of activations to int16 by blocks of 32.
double CpuLinearBound(DType type, const float* x, const float* w, int64_t cols) {
  double bound = 0;
  for (int64_t block = 0; block < cols; block += 32) {
    const BlockSums sums = SumBlock(x + block, w + block, std::min<int64_t>(32, cols - block));
    if (IsQuantized(type)) {
      // Scale and minimum are multiplied apart; together they reach some times the largest weight.
      const double num_additions = 2.0 * static_cast<double>(cols) / 32 + 8;
      bound += 0.501 * sums.max_x / 32639 * sums.sum_w +
               num_additions * kUnit * 4 * sums.max_w * sums.sum_x;
    } else {
      bound += static_cast<double>(cols + 1) * kUnit * sums.sum_xw;
    }
  }
  return bound;
}

// On a device: each addition of a tensor core may lose a whole fp32 unit; float weights are
// rounded once to activations' type. The result's own rounding comes on top.
double DeviceLinearBound(DType type, DType activation_type, const float* x, const float* w,
                         int64_t cols) {
  const double num_additions = static_cast<double>(cols + 2 * cols / 32 + 1);
  const bool is_exact = IsQuantized(type) || type == activation_type;
  double bound = 0;
  for (int64_t block = 0; block < cols; block += 32) {
    const BlockSums sums = SumBlock(x + block, w + block, std::min<int64_t>(32, cols - block));
    const double magnitude = IsQuantized(type) ? 4 * sums.max_w * sums.sum_x : sums.sum_xw;
    bound += num_additions * 2 * kUnit * magnitude;
    // fp16 has multiples of 2^-24 below 2^-14.
    if (!is_exact) bound += UnitRoundoff(activation_type) * sums.sum_xw + 0x1p-25 * sums.sum_x;
  }
  return bound;
}

double BackendOpsTest::LinearBound(DType type, const float* x, const float* w, int64_t cols,
                                   double exact) const {
  if (type_ == DType::kF32) return CpuLinearBound(type, x, w, cols);
  const double bound = DeviceLinearBound(type, type_, x, w, cols);
  return bound + rounding_ * (std::fabs(exact) + bound) + underflow_;
}

TEST_P(BackendOpsTest, LogitsAreLinearInFp32) {
  constexpr int64_t kCols = 512, kRows = 130;
  for (const DType type : {DType::kF16, DType::kQ8_0}) {
    const auto weight = MakeWeight(backend_.get(), type, kRows, kCols, 8);
    const auto reference = MakeWeight(reference_.get(), type, kRows, kCols, 8);
    const Floats values = DequantizedWeight(type, kRows, kCols, 8);
    const Floats x = Rounded(ActivationFloats(3 * kCols, 9));
    const Floats actual = RunLogits(backend_.get(), x, *weight);
    const Floats expected = RunLogits(reference_.get(), x, *reference);
    for (size_t i = 0; i < actual.size(); ++i) {
      const float* row = &x[i / kRows * kCols];
      const float* w = &values[i % kRows * kCols];
      const double bound = type_ == DType::kF32 ? CpuLinearBound(type, row, w, kCols)
                                                : DeviceLinearBound(type, type_, row, w, kCols);
      ASSERT_NEAR(actual[i], expected[i], bound) << Name(type) << " element " << i;
    }
  }
}

TEST_P(BackendOpsTest, Linear) {
  for (const DType type : kAllDTypes) {
    const int64_t cols = BlockElements(type) == 256 ? 768 : 576;
    const std::vector<int64_t> sizes = {1, 33, 70};
    std::vector<std::unique_ptr<PackedWeight>> weights, references;
    std::vector<const PackedWeight*> pointers, reference_pointers;
    Floats values;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const auto seed = static_cast<uint32_t>(10 + i);
      weights.push_back(MakeWeight(backend_.get(), type, sizes[i], cols, seed));
      references.push_back(MakeWeight(reference_.get(), type, sizes[i], cols, seed));
      pointers.push_back(weights.back().get());
      reference_pointers.push_back(references.back().get());
      const Floats rows = DequantizedWeight(type, sizes[i], cols, seed);
      values.insert(values.end(), rows.begin(), rows.end());
    }
    const size_t num_outputs = values.size() / static_cast<size_t>(cols);
    for (const int64_t num_rows : {1, 2, 5, 37}) {
      const Floats x = Rounded(ActivationFloats(num_rows * cols, 7));
      const Floats actual = RunLinear(backend_.get(), x, pointers);
      const Floats expected = RunLinear(reference_.get(), x, reference_pointers);
      for (size_t i = 0; i < actual.size(); ++i) {
        const float* row = &x[i / num_outputs * static_cast<size_t>(cols)];
        const float* weight = &values[i % num_outputs * static_cast<size_t>(cols)];
        ASSERT_NEAR(actual[i], expected[i], LinearBound(type, row, weight, cols, expected[i]))
            << Name(type) << ", " << num_rows << " rows, element " << i;
      }
    }
  }
}

struct AttentionTestCase {
  AttentionShape shape;
  std::vector<std::vector<int>> steps;  // tokens each sequence gets, step by step
};

// Prompts in chunks beside decode rows, across the boundaries of pages and of 256 keys.
const std::vector<std::vector<int>> kMixedSteps = {
    {5, 64, 1, 200}, {1, 1, 0, 63}, {60, 3, 1, 1}, {1, 130, 1, 40}};

std::vector<AttentionTestCase> AttentionCases() {
  const AttentionShape gqa = {.num_heads = 6, .spec = {.num_kv_heads = 2, .head_dim = 64}};
  std::vector<AttentionTestCase> cases = {{gqa, kMixedSteps}};
  for (const int head_dim : {16, 32, 80, 128, 256}) {
    cases.push_back(
        {{.num_heads = 2, .spec = {.num_kv_heads = 1, .head_dim = head_dim}}, {{70, 3}, {1, 61}}});
  }
  cases.push_back({{.num_heads = 4, .spec = {.num_kv_heads = 4, .head_dim = 48}}, {{65}, {1}}});
  cases.push_back({{.num_heads = 14, .spec = {.num_kv_heads = 1, .head_dim = 64}}, {{280}, {1}}});
  for (const int window : {1, 7, 64, 100}) {
    AttentionTestCase windowed = {gqa, kMixedSteps};
    windowed.shape.window = window;
    cases.push_back(windowed);
  }
  AttentionTestCase capped = {gqa, kMixedSteps};
  capped.shape.softcap = 2.5f;
  cases.push_back(capped);
  AttentionTestCase full = {gqa, {{70, 1, 300}}};
  full.shape.causal = false;
  cases.push_back(full);
  return cases;
}

// rounded_for: the backend whose activation type the inputs are rounded to.
AttentionRun RunAttention(Backend* backend, const AttentionTestCase& test,
                          const Backend& rounded_for) {
  std::vector<uint32_t> seeds(test.steps[0].size());
  std::iota(seeds.begin(), seeds.end(), 20u);
  AttentionRun run(backend, test.shape, seeds, 640);
  run.RoundInputsFor(rounded_for);
  for (const std::vector<int>& step : test.steps) run.Step(step);
  return run;
}

std::string Describe(const AttentionShape& shape) {
  return std::to_string(shape.num_heads) + " heads over " +
         std::to_string(shape.spec.num_kv_heads) + " of " + std::to_string(shape.spec.head_dim) +
         ", window " + std::to_string(shape.window) + ", softcap " + std::to_string(shape.softcap);
}

// Scores are one chain of head_dim products of two vectors of norm below 2 sqrt(head_dim); sums run
// over at most 640 keys; values are below 6.
//
// In 16 bits a probability and an output are each rounded once to that type, and a tanh has a
// relative error of 2^-11. Stored keys and values are the inputs, which are of that type; the
// reference's fp16 pages change what is below 2^-14 by up to 2^-25.
double AttentionBound(const AttentionShape& shape, DType type) {
  const double dim = shape.spec.head_dim;
  const double max_score = 4 * std::sqrt(dim);
  if (type == DType::kF32) {
    const double score_error = (dim + 8) * kUnit * max_score + 6 * kUnit * double{shape.softcap};
    return (2 * score_error + 2 * (640 + 16) * kUnit) * 6;
  }
  const double score_error =
      2 * (dim + 8) * kUnit * max_score + 0x1p-11 * double{shape.softcap} + 0x1p-25 * max_score;
  return (2 * score_error + 4 * (640 + 16) * kUnit + 2 * UnitRoundoff(type)) * 6 + 0x1p-25;
}

TEST_P(BackendOpsTest, Attention) {
  for (const AttentionTestCase& test : AttentionCases()) {
    if (!GetParam().SupportsHeadDim(test.shape.spec.head_dim)) continue;
    const AttentionRun actual = RunAttention(backend_.get(), test, *backend_);
    const AttentionRun expected = RunAttention(reference_.get(), test, *backend_);
    for (size_t i = 0; i < test.steps[0].size(); ++i) {
      const auto sequence = static_cast<int>(i);
      ExpectNear(actual.output(sequence), expected.output(sequence), 0,
                 AttentionBound(test.shape, type_), Describe(test.shape));
    }
    EXPECT_EQ(actual.num_faults(), 0);
  }
}

TEST_P(BackendOpsTest, RopeRotatesQueriesAndStoredKeys) {
  for (const int rope_dim : {64, 32}) {
    AttentionTestCase test = {
        {.num_heads = 6, .spec = {.num_kv_heads = 2, .head_dim = 64}, .rope_dim = rope_dim},
        {{130, 1}, {1, 70}}};
    const AttentionRun actual = RunAttention(backend_.get(), test, *backend_);
    const AttentionRun expected = RunAttention(reference_.get(), test, *backend_);
    // A rounding apart before the key is rounded to fp16 may move single elements by 2^-10 of them.
    double flip = 2 * 6 * 6 * 0x1p-10 / 8 * 6;
    // In 16 bits queries and keys, of norm below 2 sqrt(64) and at most sqrt(2) 6 an element, are
    // each off by a rounding, and so the score by 2 roundings of 16 * 16 / 8.
    if (type_ != DType::kF32) flip = (2 * 2 * rounding_ + 0x1p-10) * 32 * 6;
    for (const int sequence : {0, 1}) {
      ExpectNear(actual.rotated_q(sequence), expected.rotated_q(sequence), rounding_,
                 2 * 6 * 2 * kUnit, "q, rope_dim " + std::to_string(rope_dim));
      ExpectNear(actual.output(sequence), expected.output(sequence), 0,
                 AttentionBound(test.shape, type_) + flip, "rope_dim " + std::to_string(rope_dim));
    }
  }
}

TEST_P(BackendOpsTest, CopiedPagesContinueAsTheirSource) {
  const AttentionShape shape = {.num_heads = 6, .spec = {.num_kv_heads = 2, .head_dim = 64}};
  for (const int num_tokens : {1, 63, 64, 100}) {
    AttentionRun run(backend_.get(), shape, {1, 2}, 256);
    run.Step({150, 0});
    run.Fork(0, 1, num_tokens);
    run.Step({0, 150 - num_tokens});
    const auto first = run.output(0).begin() + num_tokens * 6 * 64;
    EXPECT_EQ(Floats(first, run.output(0).end()), run.output(1)) << num_tokens;
  }
}

TEST_P(BackendOpsTest, NonFiniteKeysAndValuesAreFlaggedAndStoredAsFinite) {
  const AttentionShape shape = {.num_heads = 2, .spec = {.num_kv_heads = 1, .head_dim = 64}};
  constexpr int kBadPosition = 20;
  const auto rows_before = [](const Floats& output) {
    return Floats(output.begin(), output.begin() + kBadPosition * 2 * 64);
  };
  const float infinity = std::numeric_limits<float>::infinity();
  AttentionRun clean(backend_.get(), shape, {1, 2}, 128);
  clean.Step({40, 40});
  for (const int index : {128, 191, 192, 255}) {  // first and last of k and v
    for (const float bad : {std::nanf(""), infinity, -infinity}) {
      AttentionRun run(backend_.get(), shape, {1, 2}, 128);
      run.Poison(0, kBadPosition, index, bad);
      run.Step({40, 40});
      EXPECT_EQ(run.num_faults(), 1);
      EXPECT_EQ(rows_before(run.output(0)), rows_before(clean.output(0)));
      EXPECT_EQ(run.output(1), clean.output(1));
      if (type_ == DType::kBf16) continue;  // whose largest value overflows in a product
      for (const float value : run.output(0)) ASSERT_TRUE(std::isfinite(value));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, BackendOpsTest, testing::ValuesIn(TestedCases()),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace tessera
