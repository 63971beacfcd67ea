#include "model/llama.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "base/check.h"
#include "gtest/gtest.h"
#include "tests/kernels/backend_cases.h"
#include "tests/kernels/device_io.h"
#include "tests/model/float64_llama.h"
#include "tests/model/step_harness.h"
#include "tests/support/temp_file.h"
#include "tests/support/tiny_model.h"

namespace tessera {
namespace {

constexpr int kNumTokens = 70;  // more than a page

// All logits of one sequence, prefilled in one step.
std::vector<std::vector<float>> BackendLogits(const GgufFile& file, const ModelConfig& config,
                                              Backend* backend,
                                              const std::vector<TokenId>& tokens) {
  auto weights = LoadWeights(file, config, backend);
  CHECK(weights.ok()) << weights.status();
  auto cache = KvCache::Create(backend, config.kv_spec(), config.num_layers, 4);
  CHECK(cache.ok()) << cache.status();
  Llama llama(backend, config, *std::move(weights),
              {.max_rows = kNumTokens, .max_selected = kNumTokens, .max_context = kNumTokens});
  const int32_t query_starts[] = {0, kNumTokens};
  const int32_t kv_lengths[] = {kNumTokens};
  const int32_t page_starts[] = {0, 2};
  const int32_t page_ids[] = {cache->IndexInLayer(3), cache->IndexInLayer(1)};
  std::vector<int32_t> rows(kNumTokens);
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<uint8_t> row_faults(kNumTokens);
  llama.Forward(tokens,
                {.query_starts = query_starts,
                 .kv_lengths = kv_lengths,
                 .page_starts = page_starts,
                 .page_ids = page_ids},
                rows, &*cache, row_faults.data());
  std::vector<std::vector<float>> logits;
  for (int first = 0; first < kNumTokens; first += Llama::kLogitsRows) {
    const int count = std::min(Llama::kLogitsRows, kNumTokens - first);
    std::vector<float> chunk(static_cast<size_t>(count * config.vocab_size));
    backend->Download(llama.Logits(first, count), chunk.size() * sizeof(float), chunk.data());
    backend->Synchronize();
    for (auto row = chunk.begin(); row != chunk.end(); row += config.vocab_size) {
      logits.emplace_back(row, row + config.vocab_size);
    }
  }
  return logits;
}

struct LogitErrors {
  double rms = 0;        // of the errors
  double deviation = 0;  // of the logits themselves
};

LogitErrors Compare(const std::vector<std::vector<float>>& logits,
                    const std::vector<std::vector<double>>& expected) {
  double error_squares = 0;
  double squares = 0;
  double count = 0;
  for (size_t row = 0; row < logits.size(); ++row) {
    for (size_t i = 0; i < logits[row].size(); ++i, ++count) {
      const double error = double{logits[row][i]} - expected[row][i];
      error_squares += error * error;
      squares += expected[row][i] * expected[row][i];
    }
  }
  return {std::sqrt(error_squares / count), std::sqrt(squares / count)};
}

// Relative error of the logits that docs/numerics.md leads one to expect. Each of the 7 matrix
// products of a layer, and the last, adds an independent error: 4e-5 with int16 activations, 1e-6
// in fp32, the roundings of both factors with 16-bit activations. An error of that size also moves
// a share of about `error / 2^-11` of the stored keys and values across a rounding boundary, by one
// f16 step of about 2^-11 of their size, which adds sqrt(error * 2^-11). A factor of 2 is for what
// the non-linear parts amplify.
double ExpectedRelativeError(double product_error, int num_layers) {
  const double products = product_error * std::sqrt(7.0 * num_layers + 1);
  const double kHalfStep = 1.0 / 2048;
  return 2 * (products + std::sqrt(products * kHalfStep));
}

double ProductError(const Backend& backend, DType type) {
  if (backend.activation_bytes() < sizeof(float)) return UnitRoundoff(ActivationType(backend));
  return IsQuantized(type) && backend.name() != "reference" ? 4e-5 : 1e-6;
}

size_t IndexOfMax(const std::vector<double>& values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

// The greedy token is the exact one wherever that leads by more than three deviations of both
// errors.
void ExpectGreedyTokens(const std::vector<std::vector<float>>& logits,
                        const std::vector<std::vector<double>>& expected, double error) {
  int num_compared = 0;
  for (size_t row = 0; row < logits.size(); ++row) {
    std::vector<double> others = expected[row];
    const size_t best = IndexOfMax(others);
    others[best] = -std::numeric_limits<double>::infinity();
    if (expected[row][best] - others[IndexOfMax(others)] < 6 * error) continue;
    ++num_compared;
    EXPECT_EQ(IndexOfMax({logits[row].begin(), logits[row].end()}), best) << "row " << row;
  }
  EXPECT_GT(num_compared, 10);
}

void ExpectFloat64Logits(const TinyModelOptions& options) {
  const TempFile bytes(MakeTinyModel(options));
  const auto file = GgufFile::Open(bytes.path());
  ASSERT_TRUE(file.ok()) << file.status();
  const auto config = ReadModelConfig(**file);
  ASSERT_TRUE(config.ok()) << config.status();
  const std::vector<TokenId> tokens = SomeTokens(kNumTokens, 3, options.vocab_size, 11);
  const auto expected = Float64Llama(**file, *config).Forward(tokens);
  for (const BackendCase& backend_case : TestedCases()) {
    if (!backend_case.SupportsHeadDim(options.head_dim)) continue;
    SCOPED_TRACE(backend_case.name);
    const std::unique_ptr<Backend> backend = backend_case.make();
    const auto logits = BackendLogits(**file, *config, backend.get(), tokens);
    const LogitErrors errors = Compare(logits, expected);
    EXPECT_GT(errors.deviation, 0.5) << "the logits say something";
    const double expected_error =
        ExpectedRelativeError(ProductError(*backend, options.type), options.num_layers);
    EXPECT_LT(errors.rms / errors.deviation, expected_error);
    ExpectGreedyTokens(logits, expected, expected_error * errors.deviation);
  }
}

class LlamaTypeTest : public testing::TestWithParam<DType> {};

TEST_P(LlamaTypeTest, LogitsAreThoseOfFloat64) {
  ExpectFloat64Logits(
      {.type = GetParam(), .embedding_type = GetParam(), .num_layers = 1, .ffn_dim = 256});
}

INSTANTIATE_TEST_SUITE_P(AllTypes, LlamaTypeTest, testing::ValuesIn(kAllDTypes),
                         [](const auto& param_info) {
                           return std::string(Name(param_info.param));
                         });

TEST(LlamaTest, LogitsAreThoseOfFloat64WithAnUntiedOutputAndMixedTypes) {
  ExpectFloat64Logits({.type = DType::kQ4_1, .embedding_type = DType::kQ8_0, .is_tied = false});
}

TEST(LlamaTest, LogitsAreThoseOfFloat64WithLlama3RopeAndNoGrouping) {
  ExpectFloat64Logits(
      {.num_layers = 3, .num_kv_heads = 4, .rope_base = 500000, .has_llama3_rope = true});
}

TEST(LlamaTest, LogitsAreThoseOfFloat64InOddSizes) {
  ExpectFloat64Logits({.type = DType::kQ5_0,
                       .embedding_type = DType::kF16,
                       .hidden_dim = 160,
                       .num_heads = 9,
                       .num_kv_heads = 3,
                       .head_dim = 32,
                       .ffn_dim = 352,
                       .vocab_size = 301});
}

}  // namespace
}  // namespace tessera
