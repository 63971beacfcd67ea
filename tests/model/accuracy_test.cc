// The default model against float64: see tests/golden/make_logprob_golden.py. Runs where the
// environment variable TESSERA_MODEL names the model's file (scripts/fetch-model prints it).

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "gtest/gtest.h"
#include "model/model_runner.h"
#include "tests/model/step_harness.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr double kMaxMeanDifference = 0.003;
constexpr double kClearMargin = 0.05;  // between the best two, in logprob

json LoadGolden() {
  std::ifstream file(TESSERA_GOLDEN_DIR "/smollm2_logprobs.json");
  json golden = json::parse(file, nullptr, /*allow_exceptions=*/false);
  CHECK(golden.is_object()) << "cannot read the golden file";
  return golden;
}

class AccuracyTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const char* path = std::getenv("TESSERA_MODEL");  // NOLINT(concurrency-mt-unsafe)
    if (path == nullptr) return;
    const auto start = std::chrono::steady_clock::now();
    const auto file = GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    auto runner = ModelRunner::Load(**file, MakeCpuBackend({}),
                                    {.max_batch_tokens = 256, .max_running = 2, .num_pages = 16});
    ASSERT_TRUE(runner.ok()) << runner.status();
    runner_ = *std::move(runner);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("loaded in %.2f s: %s\n", seconds.count(), runner_->fingerprint().c_str());
  }
  static void TearDownTestSuite() { runner_.reset(); }

  void SetUp() override {
    if (runner_ == nullptr) GTEST_SKIP() << "TESSERA_MODEL is not set";
  }

  static std::unique_ptr<ModelRunner> runner_;
};
std::unique_ptr<ModelRunner> AccuracyTest::runner_;

// Rows [first, last) of the sequence in one step; returns what follows each of them.
std::vector<std::vector<ScoredToken>> ScoreRows(Executor* executor,
                                                const std::vector<TokenId>& tokens, int first,
                                                int last) {
  static const SamplingParams kParams;
  const std::vector<PageId> pages = {7, 3, 12, 0, 5, 9, 1, 14, 2, 11};
  StepDraft draft;
  if (first == 0) draft.AddSlotStart({.params = &kParams, .tokens = tokens, .prompt_length = 1});
  draft.AddSequence(std::span(tokens).subspan(first, last - first), last, pages);
  for (int i = first; i < last; ++i) {
    draft.AddSample({.row = i - first,
                     .position = i + 1,
                     .banned = {},
                     .num_logprobs = kMaxLogprobs,
                     .wants_logprob = true});
  }
  const StepResult result = executor->Wait(executor->Launch(draft.Input()));
  std::vector<std::vector<ScoredToken>> scored;
  for (const SampledToken& sampled : result.tokens) {
    CHECK(sampled.status == TokenStatus::kOk);
    scored.emplace_back(sampled.logprobs.begin(), sampled.logprobs.end());
  }
  return scored;
}

// What follows each of the sequence's tokens: the prompt in chunks, the rest one token at a time.
std::vector<std::vector<ScoredToken>> Score(Executor* executor, const std::vector<TokenId>& tokens,
                                            int prompt_length) {
  std::vector<std::vector<ScoredToken>> scored;
  const int num_tokens = static_cast<int>(tokens.size());
  while (std::ssize(scored) < num_tokens) {
    const int first = static_cast<int>(scored.size());
    const int last = first < prompt_length ? std::min(first + 200, prompt_length) : first + 1;
    for (auto& row : ScoreRows(executor, tokens, first, last)) scored.push_back(std::move(row));
  }
  return scored;
}

struct Differences {
  double sum = 0;
  double max = 0;
  int count = 0;
  int num_clear = 0;  // positions with a clear best token

  void Add(double difference) {
    sum += difference;
    max = std::max(max, difference);
    ++count;
  }
  double mean() const { return sum / count; }
};

void Compare(const json& golden_row, const std::vector<ScoredToken>& scored,
             Differences* differences) {
  const json& top = golden_row["top"];
  for (const json& entry : top) {
    const auto found = std::find_if(scored.begin(), scored.end(), [&](const ScoredToken& s) {
      return s.token == entry[0].get<TokenId>();
    });
    ASSERT_NE(found, scored.end()) << "token " << entry[0] << " is not among our best 20";
    differences->Add(std::fabs(entry[1].get<double>() - double{found->logprob}));
  }
  if (top[0][1].get<double>() - top[1][1].get<double>() <= kClearMargin) return;
  ++differences->num_clear;
  EXPECT_EQ(scored.front().token, top[0][0].get<TokenId>())
      << "position " << golden_row["position"];
}

TEST_F(AccuracyTest, LogprobsAreThoseOfFloat64) {
  const json file = LoadGolden();
  Differences all;
  for (const json& golden : file["cases"]) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    const auto tokens = golden["token_ids"].get<std::vector<TokenId>>();
    const auto scored = Score(runner_.get(), tokens, golden["num_prompt_tokens"].get<int>());
    Differences differences;
    for (const json& row : golden["next_tokens"]) {
      Compare(row, scored[row["position"].get<size_t>()], &differences);
    }
    std::printf("%-8s mean %.5f max %.5f over %d logprobs, %d clear tokens\n",
                golden["name"].get<std::string>().c_str(), differences.mean(), differences.max,
                differences.count, differences.num_clear);
    EXPECT_LE(differences.mean(), kMaxMeanDifference);
    EXPECT_GT(differences.num_clear, 20);
    all.sum += differences.sum;
    all.count += differences.count;
  }
  std::printf("all      mean %.5f over %d logprobs\n", all.mean(), all.count);
  EXPECT_GT(all.count, 2000);
}

}  // namespace
}  // namespace tessera
