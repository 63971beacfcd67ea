#include <algorithm>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/engine.h"
#include "tests/scheduler/engine_harness.h"

// An engine whose executor takes two steps at once.

namespace tessera {
namespace {

using ::testing::ElementsAreArray;

ExecutorLimits OverlappingLimits() {
  ExecutorLimits limits = MakeLimits();
  limits.max_in_flight = 2;
  return limits;
}

// Pages in use once what is in flight has been committed: of two snapshots the second is taken
// after the engine has done all that it could do at the first.
int NumPagesUsedInTheEnd(EngineHarness* harness) {
  harness->Snapshot();
  return harness->Snapshot().stats.num_pages_used;
}

TEST(EngineOverlapTest, TheNextStepIsLaunchedWhileOneRuns) {
  EngineHarness harness(OverlappingLimits());
  const Request request = MakeRequest(1);
  harness.executor.Pause();
  const auto sink = harness.Submit(request);
  harness.executor.AwaitSteps(2);  // none has been waited for
  EXPECT_EQ(harness.executor.num_in_flight(), 2u);
  EXPECT_EQ(sink->num_tokens(), 0);
  harness.executor.Resume();
  sink->AwaitFinished();
  EXPECT_THAT(sink->output().tokens,
              ElementsAreArray(ExpectedTokens(*harness.executor.model(), request)));
  EXPECT_EQ(harness.executor.num_steps(), 8u) << "its length is known ahead: no row is wasted";
  EXPECT_EQ(harness.executor.num_overlapped_steps(), 7u);
}

// The row behind the stop token is computed and dropped; its pages and slot stay until then.
TEST(EngineOverlapTest, WhatFollowsAStopTokenReachesNobody) {
  EngineHarness harness(OverlappingLimits());
  Request request = MakeRequest(1, 5, 100);
  std::vector<TokenId> expected = ExpectedTokens(*harness.executor.model(), request);
  request.stop_tokens = {expected[3]};
  expected.resize(std::ranges::find(expected, expected[3]) - expected.begin() + 1);
  const auto sink = harness.Submit(request);
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().finish, FinishReason::kStopToken);
  EXPECT_THAT(sink->output().tokens, ElementsAreArray(expected));
  EXPECT_EQ(sink->output().report.completion_tokens, static_cast<int>(expected.size()));
  EXPECT_EQ(NumPagesUsedInTheEnd(&harness), 0);
  EXPECT_EQ(harness.executor.num_steps(), expected.size() + 1);
}

TEST(EngineOverlapTest, ManySequencesGetTheirOwnTokens) {
  EngineHarness harness(OverlappingLimits());
  std::vector<Request> requests;
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (RequestId id = 1; id <= 12; ++id) {
    const int number = static_cast<int>(id);
    requests.push_back(MakeRequest(id, 7 * number, 30 - number));
    requests.back().num_sequences = 1 + number % 3;
    sinks.push_back(harness.Submit(requests.back()));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    sinks[i]->AwaitFinished(requests[i].num_sequences);
    for (int index = 0; index < requests[i].num_sequences; ++index) {
      const auto expected = ExpectedTokens(*harness.executor.model(), requests[i], index);
      EXPECT_THAT(sinks[i]->output(index).tokens, ElementsAreArray(expected));
    }
  }
  EXPECT_EQ(NumPagesUsedInTheEnd(&harness), 0);
  EXPECT_GT(harness.executor.num_overlapped_steps(), harness.executor.num_steps() / 2);
}

// The step that chooses token 3 is launched while the one of token 2 is in flight.
TEST(EngineOverlapTest, CancelDropsWhatIsInFlight) {
  EngineHarness harness(OverlappingLimits());
  const Request request = MakeRequest(1, 5, 200);
  InStepOf(&harness.executor, request, 3, [&] { EXPECT_TRUE(harness.engine->Cancel(1)); });
  const auto sink = harness.Submit(request);
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().finish, FinishReason::kCancelled);
  EXPECT_EQ(sink->num_tokens(), 3);
  EXPECT_EQ(sink->output().report.completion_tokens, 3);
  EXPECT_EQ(NumPagesUsedInTheEnd(&harness), 0);
  EXPECT_EQ(harness.executor.num_steps(), 4u);
}

TEST(EngineOverlapTest, FinishEndsOneSequenceAndTheOthersGoOn) {
  EngineHarness harness(OverlappingLimits());
  const Request request = MakeRequest(1, 5, 100);
  const Request other_request = MakeRequest(2, 9, 100);
  const auto sink = harness.SubmitAndHold(request);
  const auto other = harness.Submit(other_request);
  harness.executor.Resume();
  sink->AwaitTokens(1);
  harness.engine->Finish(1, 0);
  sink->AwaitFinished();
  other->AwaitFinished();
  const auto output = sink->output();
  EXPECT_EQ(output.report.completion_tokens, static_cast<int>(output.tokens.size()));
  std::vector<TokenId> expected = ExpectedTokens(*harness.executor.model(), request);
  expected.resize(output.tokens.size());
  EXPECT_THAT(output.tokens, ElementsAreArray(expected));
  EXPECT_THAT(other->output().tokens,
              ElementsAreArray(ExpectedTokens(*harness.executor.model(), other_request)));
}

TEST(EngineOverlapTest, AParkedSequenceHasAtMostWhatWasInFlight) {
  EngineHarness harness(OverlappingLimits());
  harness.clock.AwaitSleeps(1);
  const Request request = MakeRequest(1, 5, 100);
  const auto sink = harness.SubmitAndHold(request);
  harness.executor.AwaitSteps(2);
  harness.engine->Park(1, 0);
  harness.executor.Resume();
  harness.clock.AwaitSleeps(2);  // two steps are all that could be done
  EXPECT_EQ(harness.executor.num_steps(), 2u);
  EXPECT_EQ(harness.executor.num_in_flight(), 0u);
  EXPECT_EQ(harness.Snapshot().stats.num_parked_sequences, 1);
  harness.engine->Resume(1, 0);
  sink->AwaitFinished();
  EXPECT_THAT(sink->output().tokens,
              ElementsAreArray(ExpectedTokens(*harness.executor.model(), request)));
}

TEST(EngineOverlapTest, ADeadlineEndsWhatIsInFlight) {
  EngineHarness harness(OverlappingLimits());
  Request request = MakeRequest(1, 5, 200);
  request.deadline = harness.clock.Now() + kSecond;
  const auto sink = harness.SubmitAndHold(request);
  harness.executor.AwaitSteps(2);
  harness.clock.Advance(kSecond);
  harness.executor.Resume();
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().finish, FinishReason::kDeadline);
  EXPECT_EQ(sink->num_tokens(), 1);
  EXPECT_EQ(NumPagesUsedInTheEnd(&harness), 0);
  EXPECT_EQ(harness.executor.num_steps(), 2u);
}

// Also for a step whose only row is in vain.
TEST(EngineOverlapTest, ADrainWaitsForWhatIsInFlight) {
  EngineHarness harness(OverlappingLimits());
  Request request = MakeRequest(1, 5, 100);
  request.stop_tokens = {ExpectedTokens(*harness.executor.model(), request)[0]};
  const auto sink = harness.Submit(request);
  harness.engine->Drain(kNoDeadline);
  EXPECT_EQ(sink->num_tokens(), 1);
  EXPECT_EQ(harness.executor.num_steps(), 2u);
  EXPECT_EQ(harness.executor.num_in_flight(), 0u);
}

// While nobody may lose pages to others, steps come one at a time.
TEST(EngineOverlapTest, AMoreUrgentRequestTakesThePlaceOfAnother) {
  ExecutorLimits limits = OverlappingLimits();
  limits.max_running = 1;
  EngineHarness harness(limits);
  const Request request = MakeRequest(1, 5, 100);
  Request urgent = MakeRequest(2, 5, 100);
  urgent.priority = -1;
  const auto sink = harness.SubmitAndHold(request);
  const auto urgent_sink = harness.Submit(urgent);
  harness.executor.Resume();
  urgent_sink->AwaitFinished();
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().report.num_preemptions, 1);
  EXPECT_THAT(urgent_sink->output().tokens,
              ElementsAreArray(ExpectedTokens(*harness.executor.model(), urgent)));
  EXPECT_THAT(sink->output().tokens,
              ElementsAreArray(ExpectedTokens(*harness.executor.model(), request)));
}

class SummingObserver final : public EngineObserver {
 public:
  void OnStep(const StepReport& report) override { executed += report.execute_ns; }
  void OnIdle(const SchedulerStats&) override {}

  TimeNs executed = 0;  // read after a drain
};

// Each step takes a second, which only one of two in flight counts.
TEST(EngineOverlapTest, TimesOfStepsDoNotOverlap) {
  SummingObserver observer;
  EngineOptions options;
  options.observer = &observer;
  EngineHarness harness(OverlappingLimits(), options);
  harness.executor.model()->next_token = [&](std::span<const TokenId>, int) {
    harness.clock.Advance(kSecond);
    return 5;
  };
  const TimeNs begin = harness.clock.Now();
  harness.Submit(MakeRequest(1, 5, 20))->AwaitFinished();
  harness.engine->Drain(kNoDeadline);
  EXPECT_EQ(harness.clock.Now() - begin, 20 * kSecond);
  EXPECT_EQ(observer.executed, 20 * kSecond);
}

}  // namespace
}  // namespace tessera
