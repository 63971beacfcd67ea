#include <gtest/gtest.h>

#include "scheduler/ngram_index.h"
#include "scheduler/scheduler.h"
#include "tests/scheduler/scheduler_harness.h"

namespace tessera {
namespace {

TEST(NgramIndex, FindsTheLatestContinuation) {
  NgramIndex index;
  std::vector<TokenId> tokens = {1, 2, 3, 7, 1, 2, 3, 8, 1, 2};
  EXPECT_EQ(index.FindContinuation(tokens), -1);
  tokens.push_back(3);
  EXPECT_EQ(index.FindContinuation(tokens), 7);
  tokens.push_back(9);
  EXPECT_EQ(index.FindContinuation(tokens), -1);
}

TEST(NgramIndex, ARunThatOverlapsItselfIsFound) {
  NgramIndex index;
  const std::vector<TokenId> tokens(5, 4);
  EXPECT_EQ(index.FindContinuation(tokens), 4);
}

TEST(NgramIndex, FewerTokensThanARunHaveNone) {
  NgramIndex index;
  EXPECT_EQ(index.FindContinuation({}), -1);
  EXPECT_EQ(index.FindContinuation(std::vector<TokenId>{5, 5, 5}), -1);
}

// Every token of a long text, found or not: what is found was there.
TEST(NgramIndex, NeverClaimsWhatWasNotThere) {
  NgramIndex index;
  std::vector<TokenId> tokens;
  uint32_t state = 1;
  int num_found = 0;
  for (int i = 0; i < 20000; ++i) {
    state = state * 1664525 + 1013904223;
    tokens.push_back(static_cast<TokenId>(state >> 27));  // 32 different ones
    const int found = index.FindContinuation(tokens);
    if (found < 0) continue;
    ++num_found;
    ASSERT_LT(found, static_cast<int>(tokens.size()));
    for (int j = 1; j <= 3; ++j) ASSERT_EQ(tokens[found - j], tokens[tokens.size() - j]);
  }
  EXPECT_GT(num_found, 1000);
}

SchedulerOptions Speculating() {
  SchedulerOptions options;
  options.max_draft_tokens = 8;
  return options;
}

ExecutorLimits RoomyLimits() {
  ExecutorLimits limits = SmallLimits();
  limits.page_tokens = 16;
  limits.max_batch_tokens = 64;
  limits.max_samples = 64;
  limits.max_context = 512;
  return limits;
}

TokenId RepeatLastFive(std::span<const TokenId> tokens, int) { return tokens[tokens.size() - 5]; }

TEST(Speculation, WhatRepeatsComesInFewerSteps) {
  SchedulerHarness harness(RoomyLimits(), Speculating());
  harness.ns_per_step = 1'000'000;
  harness.model()->next_token = RepeatLastFive;
  harness.scheduler.Add(MakeRequest(1, 6, 400), 0);
  const int num_steps = harness.RunAll();
  const std::vector<TokenId>& output = harness.outputs[{1, 0}];
  ASSERT_EQ(output.size(), 400u);
  for (size_t i = 5; i < output.size(); ++i) ASSERT_EQ(output[i], output[i - 5]);
  EXPECT_LT(num_steps, 120);
  const SchedulerStats stats = harness.scheduler.stats();
  EXPECT_EQ(stats.generated_tokens, 400);
  EXPECT_EQ(stats.accepted_draft_tokens, 400 - num_steps);
}

TEST(Speculation, DraftsOnlyWhereTheyPay) {
  SchedulerHarness harness(RoomyLimits(), Speculating());
  harness.ns_per_row = 1'000'000;  // a row more is no cheaper than a step more
  harness.model()->next_token = RepeatLastFive;
  harness.scheduler.Add(MakeRequest(1, 6, 200), 0);
  harness.RunAll();
  EXPECT_LT(harness.scheduler.stats().draft_tokens, 10);
}

// A small vocabulary has every run before, and none of them tells what follows.
TEST(Speculation, StopsWhereGuessesAreWrong) {
  ExecutorLimits limits = RoomyLimits();
  limits.vocab_size = 5;
  SchedulerHarness harness(limits, Speculating());
  harness.ns_per_step = 1'000'000;
  harness.ns_per_row = 600'000;
  Request request = MakeRequest(1, 6, 400);
  for (TokenId& token : request.prompt) token %= 5;
  harness.scheduler.Add(std::move(request), 0);
  harness.RunAll();
  EXPECT_EQ((harness.outputs[{1, 0}].size()), 400u);
  EXPECT_LT(harness.scheduler.stats().draft_tokens, 80);
}

TEST(Speculation, AStopTokenAmongDraftsEndsTheSequenceThere) {
  SchedulerHarness harness(RoomyLimits(), Speculating());
  harness.ns_per_step = 1'000'000;
  harness.model()->next_token = [](std::span<const TokenId> tokens, int) {
    return tokens.size() == 100 ? TokenId{77} : tokens[tokens.size() - 5];
  };
  Request request = MakeRequest(1, 6, 400);
  request.stop_tokens = {77};
  harness.scheduler.Add(std::move(request), 0);
  harness.RunAll();
  EXPECT_EQ(harness.finish(1), FinishReason::kStopToken);
  EXPECT_EQ((harness.outputs[{1, 0}].size()), 95u);
  EXPECT_EQ(harness.scheduler.stats().num_pages_used, 0);
}

}  // namespace
}  // namespace tessera
