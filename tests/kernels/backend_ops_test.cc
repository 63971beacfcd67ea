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
  const std::unique_ptr<Backend> backend_ = GetParam().make();
  const std::unique_ptr<Backend> reference_ = MakeReferenceBackend();
};

TEST_P(BackendOpsTest, AllocatesZeroedAlignedMemory) {
  for (const size_t size_bytes : {size_t{0}, size_t{1}, size_t{64}, size_t{100'000}}) {
    const DeviceBuffer buffer = backend_->Allocate(size_bytes);
    const auto* bytes = buffer.As<unsigned char>();
    EXPECT_EQ(buffer.size_bytes(), size_bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes) % 64, 0u);
    EXPECT_TRUE(std::all_of(bytes, bytes + size_bytes, [](unsigned char b) { return b == 0; }));
  }
}

constexpr int64_t kDims[] = {1, 15, 16, 17, 64, 576, 1000};

TEST_P(BackendOpsTest, RmsNorm) {
  for (const int64_t dim : kDims) {
    for (const int64_t num_rows : {1, 3, 40}) {
      const Floats x = ActivationFloats(num_rows * dim, 1);
      const Floats weight = NormalFloats(dim, 2);
      // Half a lane's chain and the tree under the square root, then a few single operations.
      const double tolerance = (static_cast<double>(dim) / 32 + 8) * kUnit;
      ExpectNear(RunRmsNorm(backend_.get(), x, weight, 1e-5f),
                 RunRmsNorm(reference_.get(), x, weight, 1e-5f), tolerance, 0,
                 "dim " + std::to_string(dim));
      const Floats residual = NormalFloats(num_rows * dim, 3);
      ExpectNear(RunAddRmsNorm(backend_.get(), x, residual, weight, 1e-5f),
                 RunAddRmsNorm(reference_.get(), x, residual, weight, 1e-5f), tolerance, 0,
                 "add, dim " + std::to_string(dim));
    }
  }
}

TEST_P(BackendOpsTest, RmsNormOfZerosIsZero) {
  const Floats zeros(64, 0.0f);
  EXPECT_EQ(RunRmsNorm(backend_.get(), zeros, NormalFloats(32, 1), 1e-5f), zeros);
}

TEST_P(BackendOpsTest, SwiGlu) {
  for (const int64_t dim : kDims) {
    Floats gate_up = ActivationFloats(6 * dim, 4);
    gate_up[0] = -200.0f;  // the sigmoid underflows
    gate_up[static_cast<size_t>(dim) / 2] = 200.0f;
    // The sigmoid is good to 2.5 ulp, then two products; it flushes below 2^-126.
    ExpectNear(RunSwiGlu(backend_.get(), gate_up, dim), RunSwiGlu(reference_.get(), gate_up, dim),
               8 * kUnit, 1e-34, "dim " + std::to_string(dim));
  }
}

TEST_P(BackendOpsTest, GatherRows) {
  const Floats x = NormalFloats(10 * 33, 5);
  const std::vector<int32_t> rows = {9, 0, 0, 4};
  Floats out(rows.size() * 33);
  backend_->GatherRows(x.data(), rows, 33 * sizeof(float), out.data());
  for (size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(out[i], x[static_cast<size_t>(rows[i / 33]) * 33 + i % 33]);
  }
}

TEST_P(BackendOpsTest, EmbedGivesTheDequantisedRowsExactly) {
  for (const DType type : kAllDTypes) {
    constexpr int64_t kRows = 70, kCols = 512;
    const auto weight = MakeWeight(backend_.get(), type, kRows, kCols, 6);
    const Floats values = DequantizedWeight(type, kRows, kCols, 6);
    const std::vector<TokenId> tokens = {69, 0, 31, 32, 0, 64};
    Floats out(tokens.size() * kCols);
    backend_->Embed(*weight, tokens, out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(out[i], values[static_cast<size_t>(tokens[i / kCols]) * kCols + i % kCols])
          << Name(type) << " element " << i;
    }
  }
}

// How far row x times one weight row may be off: fp32 accumulation, and for quantised weights the
// rounding of activations to int16 by blocks of 32.
double LinearBound(DType type, const float* x, const float* w, int64_t cols) {
  double bound = 0;
  for (int64_t block = 0; block < cols; block += 32) {
    double max_x = 0, sum_x = 0, max_w = 0, sum_w = 0, sum_xw = 0;
    for (int64_t k = block; k < std::min(cols, block + 32); ++k) {
      max_x = std::max(max_x, std::fabs(double{x[k]}));
      max_w = std::max(max_w, std::fabs(double{w[k]}));
      sum_x += std::fabs(double{x[k]});
      sum_w += std::fabs(double{w[k]});
      sum_xw += std::fabs(double{x[k]} * double{w[k]});
    }
    if (IsQuantized(type)) {
      // Scale and minimum are multiplied apart; together they reach some times the largest weight.
      const double num_additions = 2.0 * static_cast<double>(cols) / 32 + 8;
      bound += 0.501 * max_x / 32639 * sum_w + num_additions * kUnit * 4 * max_w * sum_x;
    } else {
      bound += static_cast<double>(cols + 1) * kUnit * sum_xw;
    }
  }
  return bound;
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
      const Floats x = ActivationFloats(num_rows * cols, 7);
      const Floats actual = RunLinear(backend_.get(), x, pointers);
      const Floats expected = RunLinear(reference_.get(), x, reference_pointers);
      for (size_t i = 0; i < actual.size(); ++i) {
        const float* row = &x[i / num_outputs * static_cast<size_t>(cols)];
        const float* weight = &values[i % num_outputs * static_cast<size_t>(cols)];
        ASSERT_NEAR(actual[i], expected[i], LinearBound(type, row, weight, cols))
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

AttentionRun RunAttention(Backend* backend, const AttentionTestCase& test) {
  std::vector<uint32_t> seeds(test.steps[0].size());
  std::iota(seeds.begin(), seeds.end(), 20u);
  AttentionRun run(backend, test.shape, seeds, 640);
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
double AttentionBound(const AttentionShape& shape) {
  const double dim = shape.spec.head_dim;
  const double max_score = 4 * std::sqrt(dim);
  const double score_error = (dim + 8) * kUnit * max_score + 6 * kUnit * double{shape.softcap};
  return (2 * score_error + 2 * (640 + 16) * kUnit) * 6;
}

TEST_P(BackendOpsTest, Attention) {
  for (const AttentionTestCase& test : AttentionCases()) {
    const AttentionRun actual = RunAttention(backend_.get(), test);
    const AttentionRun expected = RunAttention(reference_.get(), test);
    for (size_t i = 0; i < test.steps[0].size(); ++i) {
      const auto sequence = static_cast<int>(i);
      ExpectNear(actual.output(sequence), expected.output(sequence), 0, AttentionBound(test.shape),
                 Describe(test.shape));
    }
    EXPECT_EQ(actual.num_faults(), 0);
  }
}

TEST_P(BackendOpsTest, RopeRotatesQueriesAndStoredKeys) {
  for (const int rope_dim : {64, 32}) {
    AttentionTestCase test = {
        {.num_heads = 6, .spec = {.num_kv_heads = 2, .head_dim = 64}, .rope_dim = rope_dim},
        {{130, 1}, {1, 70}}};
    const AttentionRun actual = RunAttention(backend_.get(), test);
    const AttentionRun expected = RunAttention(reference_.get(), test);
    // A rounding apart before the key is rounded to fp16 may move single elements by 2^-10 of them.
    const double flip = 2 * 6 * 6 * 0x1p-10 / 8 * 6;
    for (const int sequence : {0, 1}) {
      ExpectNear(actual.rotated_q(sequence), expected.rotated_q(sequence), 0, 2 * 6 * 2 * kUnit,
                 "q, rope_dim " + std::to_string(rope_dim));
      ExpectNear(actual.output(sequence), expected.output(sequence), 0,
                 AttentionBound(test.shape) + flip, "rope_dim " + std::to_string(rope_dim));
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
  const float infinity = std::numeric_limits<float>::infinity();
  for (const int index : {128, 191, 192, 255}) {  // first and last of k and v
    for (const float bad : {std::nanf(""), infinity, -infinity}) {
      AttentionRun run(backend_.get(), shape, {1, 2}, 128);
      run.Poison(0, 20, index, bad);
      run.Step({40, 40});
      EXPECT_EQ(run.num_faults(), 1);
      for (const float value : run.output(0)) ASSERT_TRUE(std::isfinite(value));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, BackendOpsTest, testing::ValuesIn(CpuCases()),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace tessera
