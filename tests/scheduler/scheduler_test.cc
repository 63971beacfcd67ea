#include "scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/philox.h"
#include "tests/scheduler/scheduler_harness.h"

namespace tessera {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(Scheduler, PlansDecodeTokensBeforePrompts) {
  SchedulerHarness harness(SmallLimits(), {});
  harness.scheduler.Add(MakeRequest(1, 3, 10), 0);
  EXPECT_EQ(harness.Step(), "1:3");
  harness.scheduler.Add(MakeRequest(2, 20, 10), 0);
  EXPECT_EQ(harness.Step(), "1:1 2:7");
  EXPECT_EQ(harness.Step(), "1:1 2:7");
  EXPECT_EQ(harness.Step(), "1:1 2:6");
  EXPECT_EQ(harness.Step(), "1:1 2:1");
}

TEST(Scheduler, SharesRowsBetweenPromptsAndWastesNone) {
  SchedulerHarness harness(SmallLimits(), {});
  harness.scheduler.Add(MakeRequest(1, 20, 1), 0);
  harness.scheduler.Add(MakeRequest(2, 6, 3), 0);
  EXPECT_EQ(harness.Step(), "1:4 2:4");  // half of the rows each
  EXPECT_EQ(harness.Step(), "1:6 2:2");  // what the short one leaves goes to the long one
  EXPECT_EQ(harness.Step(), "2:1 1:7");
  EXPECT_EQ(harness.Step(), "2:1 1:3");
  EXPECT_EQ(harness.Step(), "");
}

TEST(Scheduler, FinishesAPromptThatAStepCouldHoldBeforeTheNext) {
  SchedulerHarness harness(SmallLimits(), {});
  harness.scheduler.Add(MakeRequest(1, 6, 1), 0);
  harness.scheduler.Add(MakeRequest(2, 7, 1), 0);
  EXPECT_EQ(harness.Step(), "1:6 2:2");
  EXPECT_EQ(harness.Step(), "2:5");
}

TEST(Scheduler, CapsTheChunkOfOnePrompt) {
  SchedulerOptions options;
  options.max_prefill_chunk = 2;
  SchedulerHarness harness(SmallLimits(), options);
  for (RequestId id = 1; id <= 3; ++id) harness.scheduler.Add(MakeRequest(id, 12, 1), 0);
  EXPECT_EQ(harness.Step(), "1:4 2:2 3:2");
}

TEST(Scheduler, LimitsHalfComputedPrompts) {
  SchedulerOptions options;
  options.max_prefill_chunk = 1;
  options.max_partial_prefills = 2;
  SchedulerHarness harness(SmallLimits(), options);
  for (RequestId id = 1; id <= 4; ++id) harness.scheduler.Add(MakeRequest(id, 12, 1), 0);
  EXPECT_EQ(harness.Step(), "1:7 2:1");
  EXPECT_EQ(harness.Explain(3).wait_reason, WaitReason::kTokenBudget);
  harness.RunAll();
  EXPECT_EQ(harness.finish(4), FinishReason::kLength);
}

TEST(Scheduler, AForkEqualsSingleRequestsWithTheDerivedSeeds) {
  for (const int prompt_length : {1, 7, 8, 13}) {
    SchedulerHarness forked(SmallLimits(), {});
    Request request = MakeRequest(1, prompt_length, 12);
    request.sampling.temperature = 1.0f;
    request.sampling.seed = 42;
    request.num_logprobs = 2;
    Request single = request;
    request.num_sequences = 4;
    forked.scheduler.Add(request, 0);
    forked.RunAll();
    EXPECT_EQ(forked.num_page_copies, prompt_length % 4 == 0 ? 0 : 3);
    for (int i = 0; i < 4; ++i) {
      SchedulerHarness alone(SmallLimits(), {});
      single.sampling.seed = ForkSeed(42, i);
      alone.scheduler.Add(single, 0);
      alone.RunAll();
      EXPECT_EQ((forked.outputs[{1, i}]), (alone.outputs[{1, 0}])) << i;
    }
    EXPECT_NE((forked.outputs[{1, 0}]), (forked.outputs[{1, 1}]));
    EXPECT_EQ(forked.scheduler.stats().num_pages_used, 0);
  }
}

TEST(Scheduler, ADeadlineEndsARequestWaitingOrRunning) {
  ExecutorLimits limits = SmallLimits();
  limits.max_running = 1;
  SchedulerHarness harness(limits, {});
  for (RequestId id = 1; id <= 2; ++id) {
    Request request = MakeRequest(id, 4, 50);
    request.deadline = (4 - static_cast<TimeNs>(id)) * kSecond;
    harness.scheduler.Add(std::move(request), 0);
  }
  harness.scheduler.Add(MakeRequest(3, 4, 1), 0);
  EXPECT_EQ(harness.Step(), "1:4");
  EXPECT_EQ(harness.scheduler.NextDeadline(), 2 * kSecond);
  harness.now = 2 * kSecond;
  EXPECT_EQ(harness.Step(), "1:1");
  EXPECT_EQ(harness.finish(2), FinishReason::kDeadline);
  EXPECT_EQ(harness.finish(1), FinishReason::kNone);
  harness.now = 3 * kSecond;
  EXPECT_EQ(harness.Step(), "3:4");  // at once in the freed slot
  EXPECT_EQ(harness.finish(1), FinishReason::kDeadline);
  EXPECT_EQ(harness.report(1).completion_tokens, 2);
  EXPECT_EQ(harness.scheduler.NextDeadline(), kNoDeadline);
}

TEST(Scheduler, AFullHitStillComputesTheLastToken) {
  SchedulerHarness harness(SmallLimits(), {});
  harness.scheduler.Add(MakeRequest(1, 8, 3), 0);
  harness.RunAll();
  Request again = MakeRequest(1, 8, 3);
  again.id = 2;
  harness.scheduler.Add(std::move(again), 0);
  EXPECT_EQ(harness.Step(), "2:1");
  harness.RunAll();
  EXPECT_EQ(harness.report(2).cached_tokens,
            7);  // one page shared, three tokens of the next copied
  EXPECT_EQ(harness.num_page_copies, 1);
  EXPECT_EQ((harness.outputs[{1, 0}]), (harness.outputs[{2, 0}]));
}

TEST(Scheduler, ReusesGeneratedTokensUpToTheMiddleOfAPage) {
  SchedulerHarness harness(SmallLimits(), {});
  harness.scheduler.Add(MakeRequest(1, 6, 8), 0);
  harness.RunAll();
  Request next = MakeRequest(1, 6, 2);
  next.id = 2;
  for (const TokenId token : harness.outputs[{1, 0}]) next.prompt.push_back(token);
  next.prompt.push_back(3);
  harness.scheduler.Add(std::move(next), 0);
  harness.RunAll();
  EXPECT_EQ(harness.report(2).cached_tokens, 13);  // the last output was never computed
}

TEST(Scheduler, SaltsKeepPrefixesApart) {
  SchedulerHarness harness(SmallLimits(), {});
  for (RequestId id = 1; id <= 2; ++id) {
    Request request = MakeRequest(1, 12, 2);
    request.id = id;
    request.cache_salt = id;
    harness.scheduler.Add(std::move(request), 0);
    harness.RunAll();
  }
  EXPECT_EQ(harness.report(2).cached_tokens, 0);
}

TEST(Scheduler, TheSecondWaitsForAPrefixTheFirstIsComputing) {
  SchedulerHarness harness(SmallLimits(), {});
  harness.scheduler.Add(MakeRequest(1, 16, 2), 0);
  Request second = MakeRequest(1, 17, 2);
  second.id = 2;
  harness.scheduler.Add(std::move(second), 0);
  harness.scheduler.Add(MakeRequest(3, 2, 1), 0);
  EXPECT_EQ(harness.Step(), "1:6 3:2");  // others pass meanwhile
  EXPECT_EQ(harness.Explain(2).wait_reason, WaitReason::kSharedPrefix);
  EXPECT_EQ(harness.Step(), "1:8");
  EXPECT_EQ(harness.Step(), "1:2");
  EXPECT_EQ(harness.Step(), "1:1 2:1");
  harness.RunAll();
  EXPECT_EQ(harness.report(2).cached_tokens, 16);
}

TEST(Scheduler, PromptLogprobsComputeEveryRowInBoundedChunks) {
  ExecutorLimits limits = SmallLimits();
  limits.max_samples = 3;
  limits.max_running = 3;
  SchedulerHarness harness(limits, {});
  harness.scheduler.Add(MakeRequest(1, 9, 1), 0);
  harness.RunAll();
  Request request = MakeRequest(1, 9, 1);
  request.id = 2;
  request.num_prompt_logprobs = 2;
  harness.scheduler.Add(std::move(request), 0);
  EXPECT_EQ(harness.Step(), "2:3");
  EXPECT_EQ(harness.Step(), "2:3");
  EXPECT_EQ(harness.Step(), "2:3");  // two scored rows and the one that samples
  EXPECT_EQ(harness.report(2).cached_tokens, 0);
  EXPECT_EQ((harness.ends.at({2, 0}).prompt_logprobs.size()), 8u);
}

TEST(Scheduler, EndsAtThePoolsLimitWhereMaxTokensIsUnset) {
  ExecutorLimits limits = SmallLimits();
  limits.num_pages = 5;
  SchedulerHarness harness(limits, {});
  harness.scheduler.Add(MakeRequest(1, 3, -1), 0);
  harness.scheduler.Add(MakeRequest(2, 3, -1), 0);
  harness.RunAll();
  for (RequestId id = 1; id <= 2; ++id) {
    EXPECT_EQ(harness.finish(id), FinishReason::kLength);
    EXPECT_EQ(harness.report(id).completion_tokens, 17);
  }
}

TEST(Scheduler, ACancelFreesPagesInEveryState) {
  ExecutorLimits limits = SmallLimits();
  limits.max_running = 2;
  const auto cancelled_after = [&](int num_steps, bool park) {
    SchedulerHarness harness(limits, {});
    for (RequestId id = 1; id <= 2; ++id) harness.scheduler.Add(MakeRequest(id, 20, 30), 0);
    for (int i = 0; i < num_steps; ++i) harness.Step();
    if (park) harness.scheduler.Park(1, 0);
    EXPECT_TRUE(harness.scheduler.Cancel(1, FinishReason::kCancelled, 0, &harness.events));
    EXPECT_FALSE(harness.scheduler.Cancel(1, FinishReason::kCancelled, 0, &harness.events));
    harness.Hear();
    EXPECT_EQ(harness.finish(1), FinishReason::kCancelled);
    const int num_own = num_steps == 0 ? 0 : harness.Explain(2).num_pages;
    EXPECT_EQ(harness.scheduler.stats().num_pages_used, num_own);
    harness.RunAll();
    EXPECT_EQ(harness.outputs[std::make_pair(RequestId{2}, 0)].size(), 30u);
  };
  for (const bool park : {false, true}) {
    cancelled_after(0, park);   // waiting
    cancelled_after(2, park);   // half computed
    cancelled_after(10, park);  // decoding
  }
}

TEST(Scheduler, ACancelWithinAStepFreesPagesWhenItIsCommitted) {
  const ExecutorLimits limits = SmallLimits();
  Scheduler scheduler(limits, {});
  StepBuilder builder(limits);
  FakeExecutor executor(limits);
  std::vector<TokenEvent> events;
  scheduler.Add(MakeRequest(1, 6, 5), 0);
  const StepPlan& plan = scheduler.Plan(0, &events);
  const StepTicket ticket = executor.Launch(builder.Build(plan));
  EXPECT_TRUE(scheduler.Cancel(1, FinishReason::kCancelled, 0, &events));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(scheduler.stats().num_pages_used, 2);
  scheduler.Commit(executor.Wait(ticket), 0, &events);
  EXPECT_EQ(events.size(), 1u) << "nothing follows the last event";
  EXPECT_EQ(scheduler.stats().num_pages_used, 0);
  EXPECT_EQ(scheduler.stats().num_pages_cached, 2) << "what it computed stays known";
  EXPECT_FALSE(scheduler.HasWork());
}

TEST(Scheduler, AStopTokenEndsOnlyOnceMinTokensAreOut) {
  Request probe = MakeRequest(1, 4, 6);
  SchedulerHarness free_run(SmallLimits(), {});
  free_run.scheduler.Add(probe, 0);
  free_run.RunAll();
  const std::vector<TokenId> free_output = free_run.outputs[{1, 0}];

  SchedulerHarness stopped(SmallLimits(), {});
  probe.stop_tokens = {free_output[2]};
  stopped.scheduler.Add(probe, 0);
  stopped.RunAll();
  EXPECT_EQ(stopped.finish(1), FinishReason::kStopToken);
  EXPECT_EQ((stopped.ends.at({1, 0}).stop_token), free_output[2]);
  EXPECT_EQ(stopped.report(1).completion_tokens, 3);

  SchedulerHarness masked(SmallLimits(), {});
  probe.min_tokens = 4;
  probe.banned_before_min = probe.stop_tokens;
  masked.scheduler.Add(probe, 0);
  masked.RunAll();
  EXPECT_EQ(masked.report(1).completion_tokens, 6);
  EXPECT_NE((masked.outputs[{1, 0}][2]), free_output[2]);
}

TEST(Scheduler, FinishEndsOneSequenceOfAFork) {
  SchedulerHarness harness(SmallLimits(), {});
  Request request = MakeRequest(1, 6, 20);
  request.num_sequences = 2;
  harness.scheduler.Add(std::move(request), 0);
  EXPECT_FALSE(harness.scheduler.Finish(1, 0, FinishReason::kStopString, 0, &harness.events))
      << "it has no text yet";
  harness.Step();
  EXPECT_EQ(harness.Step(), "1:1 1.1:1");
  EXPECT_TRUE(harness.scheduler.Finish(1, 0, FinishReason::kStopString, 0, &harness.events));
  EXPECT_EQ(harness.Step(), "1.1:1");
  harness.RunAll();
  EXPECT_EQ(harness.finish(1, 0), FinishReason::kStopString);
  EXPECT_EQ(harness.finish(1, 1), FinishReason::kLength);
}

TEST(Scheduler, RefusesWhatCanNeverRun) {
  ExecutorLimits limits = SmallLimits();
  limits.num_pages = 10;  // 40 tokens, fewer than the context
  const Scheduler scheduler(limits, {});
  const auto message = [&](int prompt_length, int max_tokens, int n) {
    Request request = MakeRequest(1, prompt_length, max_tokens);
    request.num_sequences = n;
    const absl::Status status = scheduler.CheckAdmissible(request);
    EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status));
    return std::string(status.message());
  };
  EXPECT_EQ(message(39, -1, 1), "");
  EXPECT_EQ(message(30, 10, 8), "");
  EXPECT_THAT(message(0, 1, 1), AllOf(HasSubstr("prompt"), HasSubstr("at least 1")));
  EXPECT_THAT(message(40, -1, 1), AllOf(HasSubstr("at most 39"), HasSubstr("got 40")));
  EXPECT_THAT(message(30, 11, 1),
              AllOf(HasSubstr("max_tokens"), HasSubstr("at most 10"), HasSubstr("got 11")));
  EXPECT_THAT(message(4, 0, 1), HasSubstr("max_tokens: expected at least 1, got 0"));
  EXPECT_THAT(message(4, 4, 9), AllOf(HasSubstr("n: expected 1 to 8"), HasSubstr("got 9")));
  EXPECT_THAT(message(4, 4, 0), HasSubstr("got 0"));
}

}  // namespace
}  // namespace tessera
