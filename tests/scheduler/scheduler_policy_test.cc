#include <gtest/gtest.h>

#include "scheduler/scheduler.h"
#include "tests/scheduler/scheduler_harness.h"

// Who goes first, who gives way and who waits: one named case a policy.

namespace tessera {
namespace {

TEST(SchedulerPolicy, RunsMoreUrgentRequestsFirst) {
  SchedulerHarness harness(SmallLimits(), {});
  const int priorities[] = {5, 0, -3};
  for (RequestId id = 1; id <= 3; ++id) {
    Request request = MakeRequest(id, 8, 1);
    request.priority = priorities[id - 1];
    harness.scheduler.Add(std::move(request), 0);
  }
  EXPECT_EQ(harness.Step(), "3:8");
  EXPECT_EQ(harness.Explain(2).wait_reason, WaitReason::kTokenBudget);
  EXPECT_EQ(harness.Step(), "2:8");
  EXPECT_EQ(harness.Step(), "1:8");
}

TEST(SchedulerPolicy, AnUrgentRequestTakesThePlaceOfALessUrgentOne) {
  ExecutorLimits limits = SmallLimits();
  limits.max_running = 2;
  SchedulerHarness harness(limits, {});
  for (RequestId id = 1; id <= 2; ++id) {
    Request request = MakeRequest(id, 2, 50);
    request.priority = static_cast<int>(id);
    harness.scheduler.Add(std::move(request), 0);
  }
  EXPECT_EQ(harness.Step(), "1:2 2:2");
  harness.scheduler.Add(MakeRequest(3, 2, 4), 0);
  EXPECT_EQ(harness.Step(), "1:1 3:2");
  EXPECT_EQ(harness.Explain(2).phase, SequencePhase::kPreempted);
  EXPECT_EQ(harness.Explain(2).wait_reason, WaitReason::kSlots);
  harness.RunAll();
  EXPECT_EQ(harness.report(2).num_preemptions, 1);
  EXPECT_EQ(harness.outputs[std::make_pair(RequestId{2}, 0)].size(), 50u);
}

// Bound: once overdue, a request with m overdue ones before it starts within
// (m + 1) * overdue_share admissions, whatever else arrives.
TEST(SchedulerPolicy, AnOverdueRequestStartsWithinItsBoundUnderAFlood) {
  ExecutorLimits limits = SmallLimits();
  limits.max_running = 1;
  SchedulerOptions options;
  options.overdue_after = kSecond;
  options.overdue_share = 4;
  SchedulerHarness harness(limits, options);
  RequestId next = 10;
  const auto flood = [&] {
    harness.scheduler.Add(MakeRequest(next++, 2, 1), harness.now);
    harness.scheduler.Add(MakeRequest(next++, 2, 1), harness.now);
  };
  flood();
  for (RequestId id = 1; id <= 2; ++id) {
    Request request = MakeRequest(id, 2, 1);
    request.priority = 9;
    harness.scheduler.Add(std::move(request), harness.now);
  }
  for (int i = 0; i < 100; ++i) {  // not overdue yet: only urgent ones start
    flood();
    harness.Step();
  }
  EXPECT_EQ(harness.finish(1), FinishReason::kNone);
  EXPECT_EQ(harness.Explain(1).wait_reason, WaitReason::kPriority);
  harness.now = kSecond;
  for (int i = 0; i < 4; ++i) {
    flood();
    harness.Step();
  }
  EXPECT_EQ(harness.finish(1), FinishReason::kLength);
  EXPECT_EQ(harness.finish(2), FinishReason::kNone);
  for (int i = 0; i < 4; ++i) {
    flood();
    harness.Step();
  }
  EXPECT_EQ(harness.finish(2), FinishReason::kLength);
}

// Three sequences fill a pool of 12 pages; the first to need another takes it from the victim.
class SchedulerPreemption : public testing::Test {
 protected:
  static ExecutorLimits Limits() {
    ExecutorLimits limits = SmallLimits();
    limits.num_pages = 12;
    limits.max_batch_tokens = 64;
    return limits;
  }
  // Steps until a sequence was preempted, and says whose.
  RequestId FirstVictim() {
    while (harness_.scheduler.stats().num_preemptions == 0) harness_.Step();
    SchedulerSnapshot snapshot;
    harness_.scheduler.Explain(0, &snapshot);
    for (const SequenceSnapshot& entry : snapshot.sequences) {
      if (entry.num_preemptions > 0) return entry.request;
    }
    return 0;
  }

  SchedulerHarness harness_{Limits(), {}};
};

TEST_F(SchedulerPreemption, TakesTheMostPagesForTheFewestTokens) {
  harness_.scheduler.Add(MakeRequest(1, 4, 40), 0);
  harness_.scheduler.Add(MakeRequest(2, 1, 40), 0);
  harness_.scheduler.Add(MakeRequest(3, 3, 40), 0);
  // When request 1 needs its fifth page, the others hold four each, for 13 and 15 tokens.
  EXPECT_EQ(FirstVictim(), 2u);
}

TEST_F(SchedulerPreemption, TakesTheLeastUrgent) {
  Request request = MakeRequest(1, 4, 40);
  request.priority = 1;
  harness_.scheduler.Add(std::move(request), 0);
  harness_.scheduler.Add(MakeRequest(2, 5, 40), 0);
  harness_.scheduler.Add(MakeRequest(3, 4, 40), 0);
  EXPECT_EQ(FirstVictim(), 1u);
}

TEST_F(SchedulerPreemption, TakesParkedOnesFirst) {
  Request request = MakeRequest(1, 4, 40);
  request.priority = -1;
  harness_.scheduler.Add(std::move(request), 0);
  harness_.scheduler.Add(MakeRequest(2, 5, 40), 0);
  harness_.scheduler.Add(MakeRequest(3, 4, 40), 0);
  for (int i = 0; i < 8; ++i) harness_.Step();
  harness_.scheduler.Park(1, 0);
  EXPECT_EQ(FirstVictim(), 1u);
  harness_.scheduler.Resume(1, 0);
  harness_.RunAll();
  EXPECT_EQ(harness_.finish(1), FinishReason::kLength);
}

TEST_F(SchedulerPreemption, ComputesAgainAndSaysSo) {
  for (RequestId id = 1; id <= 3; ++id) harness_.scheduler.Add(MakeRequest(id, 4, 40), 0);
  harness_.RunAll();
  SchedulerHarness alone(Limits(), {});
  int num_preemptions = 0;
  int num_recomputed = 0;
  for (RequestId id = 1; id <= 3; ++id) {
    alone.scheduler.Add(MakeRequest(id, 4, 40), 0);
    alone.RunAll();
    num_preemptions += harness_.report(id).num_preemptions;
    num_recomputed += harness_.report(id).recomputed_tokens;
  }
  EXPECT_EQ(harness_.outputs, alone.outputs);
  EXPECT_GT(num_preemptions, 0);
  EXPECT_EQ(harness_.scheduler.stats().num_preemptions, num_preemptions);
  EXPECT_EQ(harness_.scheduler.stats().recomputed_tokens, num_recomputed);
}

// Past max_preemptions, the oldest such sequence is never preempted again: every request ends.
TEST(SchedulerPolicy, APinnedSequenceGivesWayOnlyToOlderPinnedOnes) {
  ExecutorLimits limits = SmallLimits();
  limits.num_pages = 6;
  limits.max_batch_tokens = 64;
  SchedulerOptions options;
  options.max_preemptions = 1;
  SchedulerHarness harness(limits, options);
  for (RequestId id = 1; id <= 5; ++id) harness.scheduler.Add(MakeRequest(id, 4, 20), 0);
  EXPECT_LT(harness.RunAll(), 5 * 20 + 5);
  EXPECT_LE(harness.report(1).num_preemptions, 1);
  for (RequestId id = 1; id <= 5; ++id) {
    // Among pinned ones, an older one makes room at most once for each of its pages.
    EXPECT_LE(harness.report(id).num_preemptions, 1 + static_cast<int>(id - 1) * limits.num_pages);
    EXPECT_EQ(harness.finish(id), FinishReason::kLength);
  }
}

TEST(SchedulerPolicy, OthersPassARequestThatDoesNotFitOnlySoOften) {
  ExecutorLimits limits = SmallLimits();
  limits.num_pages = 12;
  limits.max_batch_tokens = 64;
  SchedulerOptions options;
  options.max_bypasses = 2;
  SchedulerHarness harness(limits, options);
  harness.scheduler.Add(MakeRequest(1, 4, 12), 0);
  harness.Step();
  harness.scheduler.Add(MakeRequest(2, 44, 4), 0);  // 11 pages: only once request 1 is done
  for (RequestId id = 3; id <= 6; ++id) harness.scheduler.Add(MakeRequest(id, 4, 1), 0);
  EXPECT_EQ(harness.Step(), "1:1 3:4 4:4");
  EXPECT_EQ(harness.Explain(2).wait_reason, WaitReason::kPages);
  EXPECT_EQ(harness.Step(), "1:1");
  while (harness.finish(1) == FinishReason::kNone) EXPECT_EQ(harness.Step(), "1:1");
  EXPECT_EQ(harness.Step(), "2:44");
}

TEST(SchedulerPolicy, AParkedSequenceGetsNoRowsAndGivesUpItsSlot) {
  ExecutorLimits limits = SmallLimits();
  limits.max_running = 1;
  SchedulerHarness harness(limits, {});
  harness.scheduler.Add(MakeRequest(1, 4, 10), 0);
  harness.Step();
  harness.scheduler.Park(1, 0);
  EXPECT_FALSE(harness.scheduler.HasWork());
  EXPECT_EQ(harness.Step(), "");
  EXPECT_EQ(harness.Explain(1).wait_reason, WaitReason::kSlowReader);
  harness.scheduler.Add(MakeRequest(2, 4, 2), 0);
  EXPECT_EQ(harness.Step(), "2:4");
  harness.scheduler.Resume(1, 0);
  harness.RunAll();
  EXPECT_EQ(harness.report(1).num_preemptions, 1);
  EXPECT_EQ((harness.outputs[{1, 0}].size()), 10u);
}

TEST(SchedulerPolicy, ExplainsWhoWaitsForWhat) {
  ExecutorLimits limits = SmallLimits();
  limits.max_running = 2;
  SchedulerHarness harness(limits, {});
  Request first = MakeRequest(1, 4, 20);
  first.tenant = 1;
  harness.scheduler.Add(std::move(first), 0);
  harness.scheduler.Add(MakeRequest(2, 4, 20), 0);
  harness.Step();
  for (RequestId id = 3; id <= 5; ++id) {
    Request request = MakeRequest(id, 4, 20);
    request.tenant = id == 4 ? 1 : 0;
    request.priority = id == 5 ? 1 : 0;
    harness.scheduler.Add(std::move(request), kSecond);
  }
  harness.now = 2 * kSecond;
  harness.Step();
  EXPECT_EQ(harness.Explain(1).phase, SequencePhase::kDecode);
  EXPECT_EQ(harness.Explain(1).wait_reason, WaitReason::kNone);
  EXPECT_EQ(harness.Explain(3).wait_reason, WaitReason::kSlots);
  EXPECT_EQ(harness.Explain(3).waited, kSecond);
  EXPECT_EQ(harness.Explain(3).position_in_queue, 0);
  EXPECT_EQ(harness.Explain(5).wait_reason, WaitReason::kPriority);
  EXPECT_EQ(harness.Explain(5).position_in_queue, 2);
}

// A row takes 1 ms. Beside one decoding sequence a prompt gets what 40 ms leave; alone, all rows.
TEST(SchedulerPolicy, APromptLeavesDecodingItsTargetTime) {
  ExecutorLimits limits = SmallLimits();
  limits.num_pages = 512;
  limits.max_batch_tokens = 100;
  limits.max_context = 1024;
  SchedulerOptions options;
  options.target_step_time = 40'000'000;
  SchedulerHarness harness(limits, options);
  harness.ns_per_row = 1'000'000;
  harness.scheduler.Add(MakeRequest(1, 2, 40), 0);
  for (int i = 0; i < 10; ++i) harness.Step();  // the model learns
  harness.scheduler.Add(MakeRequest(2, 600, 1), harness.now);
  for (int i = 0; i < 10; ++i) harness.Step();
  const TimeNs before = harness.now;
  EXPECT_EQ(harness.Step().substr(0, 6), "1:1 2:");
  EXPECT_NEAR(static_cast<double>(harness.now - before), 40e6, 4e6);
  harness.scheduler.Cancel(1, FinishReason::kCancelled, harness.now, &harness.events);
  EXPECT_EQ(harness.Step(), "2:100");
}

// Twenty decoding rows take 20 ms: the step may take 50, whatever the target.
TEST(SchedulerPolicy, AStepMayTakeTwoAndAHalfTimesWhatItsDecodesNeed) {
  ExecutorLimits limits = SmallLimits();
  limits.num_pages = 512;
  limits.max_batch_tokens = 100;
  limits.max_running = limits.max_samples = 32;
  SchedulerOptions options;
  options.target_step_time = 1;
  SchedulerHarness harness(limits, options);
  harness.ns_per_row = 1'000'000;
  for (RequestId id = 1; id <= 20; ++id) harness.scheduler.Add(MakeRequest(id, 2, 40), 0);
  for (int i = 0; i < 20; ++i) harness.Step();  // the model learns
  harness.scheduler.Add(MakeRequest(21, 100, 1), harness.now);
  const TimeNs before = harness.now;
  harness.Step();
  EXPECT_NEAR(static_cast<double>(harness.now - before), 50e6, 3e6);
}

// Two such steps would take 60 ms: the prompts would never start if the target were all.
TEST(SchedulerPolicy, APromptMovesOnThoughDecodingAloneMissesTheTarget) {
  ExecutorLimits limits = SmallLimits();
  limits.num_pages = 512;
  limits.max_batch_tokens = 100;
  limits.max_context = 1024;
  SchedulerOptions options;
  options.target_step_time = 1;
  SchedulerHarness harness(limits, options);
  harness.ns_per_row = 10'000'000;
  for (RequestId id = 1; id <= 6; ++id) harness.scheduler.Add(MakeRequest(id, 2, 40), 0);
  for (int i = 0; i < 10; ++i) harness.Step();
  harness.scheduler.Add(MakeRequest(7, 64, 1), harness.now);
  EXPECT_EQ(harness.Step(), "1:1 2:1 3:1 4:1 5:1 6:1 7:16");
  while (harness.finish(7) == FinishReason::kNone) harness.Step();
  EXPECT_EQ(harness.outputs[std::make_pair(RequestId{1}, 0)].size(), 14u);
}

}  // namespace
}  // namespace tessera
