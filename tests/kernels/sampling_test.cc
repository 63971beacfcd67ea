#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/backend_cases.h"
#include "tests/kernels/sampling_cases.h"

// What docs/sampling.md promises, on every backend, and the fast sampler against the reference.

namespace tessera {
namespace {

using testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Query = SamplingQuery;
using Answer = SamplingAnswer;

Query WithLogits(std::vector<float> logits) {
  Query query;
  query.logits = std::move(logits);
  return query;
}

class SamplingTest : public testing::TestWithParam<BackendCase> {
 protected:
  TokenId Token(const Query& query) { return Sample(backend_.get(), query).token; }

  // How often each token comes at positions 0 .. num_draws - 1.
  std::map<TokenId, int> Counts(Query query, int num_draws) {
    std::map<TokenId, int> counts;
    for (query.position = 0; query.position < num_draws; ++query.position) ++counts[Token(query)];
    return counts;
  }

  std::vector<TokenId> TokensSeen(const Query& query, int num_draws) {
    std::vector<TokenId> tokens;
    for (const auto& [token, count] : Counts(query, num_draws)) tokens.push_back(token);
    return tokens;
  }

  const std::unique_ptr<Backend> backend_ = GetParam().make();
};

TEST_P(SamplingTest, GreedyTakesTheLowestIdOfEquals) {
  Query query = WithLogits(std::vector<float>(300, -1.0f));
  query.params.temperature = 0.0f;
  EXPECT_EQ(Token(query), 0);
  query.logits[130] = query.logits[131] = query.logits[299] = 2.0f;
  EXPECT_EQ(Token(query), 130);
  query.logits.assign(300, -1.0f);
  query.logits[5] = 0.0f;
  query.logits[4] = -0.0f;
  EXPECT_EQ(Token(query), 4);
}

TEST_P(SamplingTest, TemperaturesBelowTheLimitAreGreedy) {
  Query query = WithLogits({1.0f, 1.00001f, 0.5f});
  query.params.temperature = 9.9e-6f;
  EXPECT_EQ(TokensSeen(query, 50), std::vector<TokenId>{1});
}

TEST_P(SamplingTest, TopKKeepsExactlyKWithTiesByLowerId) {
  Query query = WithLogits(std::vector<float>(200, 1.0f));
  query.params.top_k = 3;
  EXPECT_THAT(TokensSeen(query, 500), ElementsAre(0, 1, 2));
  query.logits[150] = 2.0f;
  EXPECT_THAT(TokensSeen(query, 500), ElementsAre(0, 1, 150));
  query.params.top_k = 1;
  EXPECT_THAT(TokensSeen(query, 50), ElementsAre(150));
}

TEST_P(SamplingTest, TopKOfZeroMinusOneOrTheVocabularyIsOff) {
  Query query = WithLogits(std::vector<float>(4, 0.0f));

  for (const int top_k : {0, -1, 4, 1000}) {
    query.params.top_k = top_k;
    EXPECT_THAT(TokensSeen(query, 200), ElementsAre(0, 1, 2, 3)) << top_k;
  }
}

TEST_P(SamplingTest, TopPKeepsTheShortestPrefixWithTheMass) {
  // Probabilities 1/2, 1/4, 1/8, 1/8.
  const float ln2 = std::log(2.0f);
  Query query = WithLogits({-3 * ln2, -ln2, -2 * ln2, -3 * ln2});

  const std::map<float, std::vector<TokenId>> expected = {
      {0.01f, {1}},       {0.49f, {1}},       {0.51f, {1, 2}},       {0.74f, {1, 2}},
      {0.76f, {0, 1, 2}}, {0.87f, {0, 1, 2}}, {0.88f, {0, 1, 2, 3}}, {1.0f, {0, 1, 2, 3}}};
  for (const auto& [top_p, tokens] : expected) {
    query.params.top_p = top_p;
    EXPECT_EQ(TokensSeen(query, 300), tokens) << top_p;
  }
}

TEST_P(SamplingTest, TopPCountsOnlyWhatTopKLeft) {
  Query query = WithLogits({0.0f, 0.0f, 0.0f, 0.0f});
  query.params.top_k = 2;
  query.params.top_p = 0.6f;
  EXPECT_THAT(TokensSeen(query, 200), ElementsAre(0, 1));
  query.params.top_p = 0.4f;
  EXPECT_THAT(TokensSeen(query, 200), ElementsAre(0));
}

TEST_P(SamplingTest, MinPComparesWithTheLikeliestToken) {
  const float ln2 = std::log(2.0f);
  Query query = WithLogits({0.0f, -ln2, -2 * ln2, -3 * ln2});
  query.params.min_p = 0.2f;
  EXPECT_THAT(TokensSeen(query, 300), ElementsAre(0, 1, 2));
  query.params.min_p = 0.3f;
  EXPECT_THAT(TokensSeen(query, 300), ElementsAre(0, 1));
  query.params.min_p = 1.0f;
  EXPECT_THAT(TokensSeen(query, 50), ElementsAre(0));
}

TEST_P(SamplingTest, RepetitionPenaltyDividesPositiveAndMultipliesNegativeScores) {
  Query query = WithLogits({4.0f, 3.0f});
  query.params.temperature = 0.0f;
  query.params.repetition_penalty = 2.0f;
  query.seen = {{.token = 0, .output_count = 0}};
  EXPECT_EQ(Token(query), 1);
  query.logits = {-2.0f, -3.0f};
  EXPECT_EQ(Token(query), 1);
  query.logits = {-1.0f, -3.0f};
  EXPECT_EQ(Token(query), 0);
}

TEST_P(SamplingTest, FrequencyCountsOutputTokensAndPresenceCountsOnce) {
  Query query = WithLogits({4.0f, 3.0f});
  query.params.temperature = 0.0f;
  query.params.frequency_penalty = 0.4f;
  query.seen = {{.token = 0, .output_count = 2}};
  EXPECT_EQ(Token(query), 0);
  query.seen[0].output_count = 3;
  EXPECT_EQ(Token(query), 1);
  query.params.frequency_penalty = 0.0f;
  query.params.presence_penalty = 1.5f;
  EXPECT_EQ(Token(query), 1);
  query.seen[0].output_count = 0;
  EXPECT_EQ(Token(query), 0) << "a prompt token has no frequency or presence penalty";
}

TEST_P(SamplingTest, BiasMovesScoresAndMasksBeatBias) {
  Query query = WithLogits({1.0f, 0.0f, 0.5f});
  query.params.temperature = 0.0f;
  query.params.logit_bias = {{1, 2.0f}};
  EXPECT_EQ(Token(query), 1);
  query.banned = {1};
  EXPECT_EQ(Token(query), 0);
  query.params.logit_bias = {{1, 100.0f}, {0, -1.0f}};
  EXPECT_EQ(Token(query), 2);
}

TEST_P(SamplingTest, MasksThatLeaveNothingHaveTheirOwnStatus) {
  Query query = WithLogits({1.0f, 0.0f});
  query.banned = {0, 1};
  query.num_logprobs = 1;
  for (const float temperature : {0.0f, 1.0f}) {
    query.params.temperature = temperature;
    const Answer answer = Sample(backend_.get(), query);
    EXPECT_EQ(answer.status, SampleStatus::kNoTokenLeft);
    EXPECT_EQ(answer.token, -1);
    EXPECT_TRUE(answer.logprob_bits.empty());
  }
}

TEST_P(SamplingTest, NonFiniteLogitsAreFoundAnywhereEvenBehindAMask) {
  for (const size_t vocab_size : {1u, 15u, 16u, 64u, 200u}) {
    for (size_t i = 0; i < vocab_size; i += 7) {
      for (const float bad : {kInfinity, -kInfinity, std::nanf("")}) {
        Query query = WithLogits(std::vector<float>(vocab_size, 0.5f));
        query.banned = {static_cast<TokenId>(i)};
        query.logits[i] = bad;
        const Answer answer = Sample(backend_.get(), query);
        EXPECT_EQ(answer.status, SampleStatus::kNonFiniteLogits) << vocab_size << " " << i;
        EXPECT_EQ(answer.token, -1);
      }
    }
  }
}

TEST_P(SamplingTest, SeedAndPositionDecideTheDraw) {
  Query query = WithLogits(std::vector<float>(1000, 0.0f));

  std::set<TokenId> by_seed, by_position;
  for (int i = 0; i < 20; ++i) {
    query.params.seed = static_cast<uint64_t>(i) << 40;
    query.position = 5;
    by_seed.insert(Token(query));
    EXPECT_EQ(Token(query), Token(query));
    query.params.seed = 1;
    query.position = int64_t{i} << 31;
    by_position.insert(Token(query));
  }
  EXPECT_GE(by_seed.size(), 18u);
  EXPECT_GE(by_position.size(), 18u);
}

// Pearson's statistic of the draws against softmax(logits / temperature) over the kept tokens.
double ChiSquare(const std::map<TokenId, int>& counts, const Query& query,
                 const std::vector<TokenId>& kept, int num_draws) {
  double total = 0;
  const auto weight = [&](TokenId token) {
    return std::exp(double{query.logits[static_cast<size_t>(token)]} /
                    double{query.params.temperature});
  };
  for (const TokenId token : kept) total += weight(token);
  double statistic = 0;
  for (const TokenId token : kept) {
    const double expected = num_draws * weight(token) / total;
    const auto found = counts.find(token);
    const double difference = (found == counts.end() ? 0 : found->second) - expected;
    statistic += difference * difference / expected;
  }
  return statistic;
}

TEST_P(SamplingTest, DrawsFollowTheDistribution) {
  constexpr int kNumDraws = 20000;
  // The 0.999 quantile of chi-square with 7 degrees of freedom; the draws are fixed by the seed.
  constexpr double kLimit = 24.32;
  Query query = WithLogits({0.3f, -1.0f, 1.2f, 0.0f, 2.0f, -0.5f, 0.9f, 1.0f});

  const std::vector<TokenId> all = {0, 1, 2, 3, 4, 5, 6, 7};
  for (const float temperature : {0.6f, 1.0f, 2.5f}) {
    query.params.temperature = temperature;
    query.params.seed = 99;
    EXPECT_LT(ChiSquare(Counts(query, kNumDraws), query, all, kNumDraws), kLimit) << temperature;
  }
  query.params.top_k = 3;
  const std::map<TokenId, int> counts = Counts(query, kNumDraws);
  EXPECT_EQ(counts.size(), 3u);
  EXPECT_LT(ChiSquare(counts, query, {2, 4, 7}, kNumDraws), 13.82);  // 2 degrees of freedom
}

TEST_P(SamplingTest, LogprobsAreRawSortedAndEndWithTheChosenToken) {
  Query query = WithLogits({0.0f, 3.0f, 1.0f, 3.0f, -2.0f});
  query.num_logprobs = 3;
  query.params.temperature = 0.0f;
  query.params.logit_bias = {{4, 50.0f}};
  const Answer answer = Sample(backend_.get(), query);
  ASSERT_EQ(answer.token, 4);
  ASSERT_EQ(answer.logprob_bits.size(), 4u);
  double sum = 0;
  for (const float logit : query.logits) sum += std::exp(double{logit});
  const std::vector<TokenId> order = {1, 3, 2, 4};
  for (size_t i = 0; i < order.size(); ++i) {
    const auto [token, bits] = answer.logprob_bits[i];
    EXPECT_EQ(token, order[i]);
    const double exact = double{query.logits[static_cast<size_t>(token)]} - std::log(sum);
    EXPECT_NEAR(std::bit_cast<float>(bits), exact, 1e-6) << token;
  }
}

TEST_P(SamplingTest, AForcedTokenIsScoredAndNothingIsChosen) {
  Query query = WithLogits({0.0f, 3.0f, 1.0f});
  query.banned = {0, 1, 2};
  query.forced = 2;
  query.num_logprobs = 2;
  const Answer answer = Sample(backend_.get(), query);
  EXPECT_EQ(answer.status, SampleStatus::kOk);
  EXPECT_EQ(answer.token, 2);
  ASSERT_EQ(answer.logprob_bits.size(), 2u) << "2 is among the top two";
  query.logits[1] = kInfinity;
  EXPECT_EQ(Sample(backend_.get(), query).status, SampleStatus::kNonFiniteLogits);
}

INSTANTIATE_TEST_SUITE_P(Backends, SamplingTest, testing::ValuesIn(AllCases()),
                         [](const auto& param) { return param.param.name; });

class FastSamplerTest : public testing::TestWithParam<BackendCase> {};

TEST_P(FastSamplerTest, AgreesWithTheReferenceToTheBit) {
  const std::unique_ptr<Backend> backend = GetParam().make();
  const std::unique_ptr<Backend> reference = MakeReferenceBackend();
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    const Query query = SamplingQueryMaker(seed).Make();
    ASSERT_EQ(Sample(backend.get(), query), Sample(reference.get(), query)) << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, FastSamplerTest, testing::ValuesIn(CpuCases()),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace tessera
