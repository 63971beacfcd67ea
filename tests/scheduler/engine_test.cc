#include "scheduler/engine.h"

#include <future>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/scheduler/engine_harness.h"

namespace tessera {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

using Harness = EngineHarness;

TEST(EngineTest, RunsARequestToItsLength) {
  Harness harness;
  const Request request = MakeRequest(1);
  const auto sink = harness.Submit(request);
  sink->AwaitFinished();
  const auto output = sink->output();
  EXPECT_THAT(output.tokens, ElementsAreArray(ExpectedTokens(*harness.executor.model(), request)));
  EXPECT_EQ(output.finish, FinishReason::kLength);
  EXPECT_EQ(output.report.prompt_tokens, 5);
  EXPECT_EQ(output.report.completion_tokens, 8);
  EXPECT_EQ(harness.Snapshot().stats.num_pages_used, 0);
  EXPECT_EQ(harness.engine->num_unfinished_requests(), 0);
}

// A request that comes while a step runs has waited for that step, too.
TEST(EngineTest, ARequestArrivesWhenItIsSubmitted) {
  Harness harness;
  const auto running = harness.SubmitAndHold(MakeRequest(1));
  const TimeNs submitted = harness.clock.Now();
  const auto sink = harness.Submit(MakeRequest(2));
  harness.clock.Advance(kSecond);
  harness.executor.Resume();
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().report.arrived, submitted);
  EXPECT_EQ(sink->output().report.first_scheduled, submitted + kSecond);
}

TEST(EngineTest, EachSequenceOfARequestFinishesOnce) {
  Harness harness;
  Request request = MakeRequest(1);
  request.num_sequences = 3;
  const auto sink = harness.Submit(request);
  sink->AwaitFinished(3);
  for (int i = 0; i < 3; ++i) {
    const auto expected = ExpectedTokens(*harness.executor.model(), request, i);
    EXPECT_THAT(sink->output(i).tokens, ElementsAreArray(expected)) << "sequence " << i;
    EXPECT_EQ(sink->output(i).finish, FinishReason::kLength);
  }
}

TEST(EngineTest, FinishEndsOneSequence) {
  Harness harness;
  Request request = MakeRequest(1, 5, 200);
  request.num_sequences = 2;
  const auto sink = harness.SubmitAndHold(request);
  harness.engine->Finish(1, 1);
  harness.executor.Resume();
  sink->AwaitFinished(2);
  EXPECT_EQ(sink->output(1).finish, FinishReason::kStopString);
  EXPECT_EQ(sink->output(1).tokens.size(), 1);
  EXPECT_EQ(sink->output(0).finish, FinishReason::kLength);
  EXPECT_EQ(sink->output(0).tokens.size(), 200);
}

// Cancel in each state.

TEST(EngineCancelTest, BeforeTheEngineHasTakenTheRequest) {
  Harness harness;
  const auto running = harness.SubmitAndHold(MakeRequest(1));
  const auto sink = harness.Submit(MakeRequest(2));
  EXPECT_TRUE(harness.engine->Cancel(2));
  harness.executor.Resume();
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().finish, FinishReason::kCancelled);
  EXPECT_EQ(sink->num_tokens(), 0);
  running->AwaitFinished();
  EXPECT_EQ(running->num_tokens(), 8);
}

TEST(EngineCancelTest, WhileItWaitsForASlot) {
  ExecutorLimits limits = MakeLimits();
  limits.max_running = 1;
  Harness harness(limits);
  const Request request = MakeRequest(1);
  InStepOf(&harness.executor, request, 3, [&] { EXPECT_TRUE(harness.engine->Cancel(2)); });
  const auto running = harness.SubmitAndHold(request);
  const auto waiting = harness.Submit(MakeRequest(2));
  harness.executor.Resume();
  waiting->AwaitFinished();
  running->AwaitFinished();
  EXPECT_EQ(waiting->output().finish, FinishReason::kCancelled);
  EXPECT_EQ(waiting->num_tokens(), 0);
  EXPECT_EQ(running->num_tokens(), 8);
}

// Two chunks of the prompt are still to come; one step after Cancel all pages are free.
TEST(EngineCancelTest, InTheMiddleOfItsPrompt) {
  Harness harness;
  const auto sink = harness.SubmitAndHold(MakeRequest(1, 90, 100));
  const uint64_t num_steps = harness.executor.num_steps();
  EXPECT_TRUE(harness.engine->Cancel(1));
  harness.executor.Resume();
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().finish, FinishReason::kCancelled);
  EXPECT_EQ(sink->num_tokens(), 0);
  EXPECT_EQ(harness.executor.num_steps(), num_steps);
  EXPECT_EQ(harness.Snapshot().stats.num_pages_used, 0);
}

// The step in flight ends; there is no other.
TEST(EngineCancelTest, WhileItGenerates) {
  Harness harness;
  const Request request = MakeRequest(1, 5, 200);
  InStepOf(&harness.executor, request, 3, [&] { EXPECT_TRUE(harness.engine->Cancel(1)); });
  const auto sink = harness.Submit(request);
  sink->AwaitFinished();
  EXPECT_EQ(harness.Snapshot().stats.num_pages_used, 0);
  EXPECT_EQ(harness.executor.num_steps(), 4);
  EXPECT_EQ(sink->output().finish, FinishReason::kCancelled);
  EXPECT_EQ(sink->num_tokens(), 4);
  EXPECT_EQ(sink->output().report.completion_tokens, 4);
}

TEST(EngineCancelTest, WhileItIsParked) {
  Harness harness;
  const auto sink = harness.SubmitAndHold(MakeRequest(1, 5, 200));
  harness.engine->Park(1, 0);
  harness.executor.Resume();
  ASSERT_EQ(harness.Snapshot().stats.num_parked_sequences, 1);
  EXPECT_TRUE(harness.engine->Cancel(1));
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().finish, FinishReason::kCancelled);
  EXPECT_EQ(harness.Snapshot().stats.num_pages_used, 0);
}

TEST(EngineCancelTest, AfterItHasEndedOrNeverWas) {
  Harness harness;
  const auto sink = harness.Submit(MakeRequest(1));
  sink->AwaitFinished();
  EXPECT_FALSE(harness.engine->Cancel(1));
  EXPECT_FALSE(harness.engine->Cancel(99));
  harness.engine->Finish(99, 0);
  harness.engine->Park(1, 0);
  harness.engine->Resume(1, 0);
  const auto next = harness.Submit(MakeRequest(2));
  next->AwaitFinished();
  EXPECT_EQ(next->num_tokens(), 8);
}

TEST(EngineParkTest, AParkedSequenceWaitsAndOthersGoOnUnchanged) {
  Harness harness;
  const Request request = MakeRequest(1, 5, 100);
  const Request other_request = MakeRequest(2, 5, 100);
  const auto parked = harness.SubmitAndHold(request);
  harness.engine->Park(1, 0);
  const auto other = harness.Submit(other_request);
  harness.executor.Resume();
  other->AwaitFinished();
  EXPECT_LE(parked->num_tokens(), 1);
  EXPECT_EQ(parked->num_finished(), 0);
  EXPECT_THAT(other->output().tokens,
              ElementsAreArray(ExpectedTokens(*harness.executor.model(), other_request)));

  harness.engine->Resume(1, 0);
  parked->AwaitFinished();
  EXPECT_THAT(parked->output().tokens,
              ElementsAreArray(ExpectedTokens(*harness.executor.model(), request)));
}

// Else as many slow readers as there are slots would stop the daemon.
TEST(EngineParkTest, ParkedSequencesGiveTheirPlacesToOthers) {
  ExecutorLimits limits = MakeLimits();
  limits.max_running = 2;
  Harness harness(limits);
  const auto first = harness.SubmitAndHold(MakeRequest(1, 5, 50));
  const auto second = harness.Submit(MakeRequest(2, 5, 50));
  harness.engine->Park(1, 0);
  harness.executor.Resume();
  second->AwaitTokens(1);
  harness.engine->Park(2, 0);
  const auto third = harness.Submit(MakeRequest(3, 5, 50));
  third->AwaitFinished();
  harness.engine->Resume(1, 0);
  harness.engine->Resume(2, 0);
  first->AwaitFinished();
  second->AwaitFinished();
  for (const auto& sink : {first, second, third}) EXPECT_EQ(sink->num_tokens(), 50);
}

TEST(EngineParkTest, OfParkAndResumeTheLastCounts) {
  Harness harness;
  const auto sink = harness.SubmitAndHold(MakeRequest(1, 5, 100));
  for (int i = 0; i < 1000; ++i) {
    harness.engine->Park(1, 0);
    harness.engine->Resume(1, 0);
  }
  harness.executor.Resume();
  sink->AwaitFinished();
  EXPECT_EQ(sink->num_tokens(), 100);
}

TEST(EngineParkTest, WithNothingToRunTheEngineSleeps) {
  Harness harness;
  const auto sink = harness.SubmitAndPark(MakeRequest(1, 5, 100));
  const uint64_t num_steps = harness.executor.num_steps();
  EXPECT_EQ(harness.Snapshot().stats.num_parked_sequences, 1);
  harness.clock.AwaitSleeps(3);
  EXPECT_EQ(harness.executor.num_steps(), num_steps);
  EXPECT_EQ(harness.clock.num_sleeps(), 3) << "woken without a reason";
  harness.engine->Resume(1, 0);
  sink->AwaitFinished();
}

// Deadlines.

TEST(EngineDeadlineTest, WakesAnEngineThatSleeps) {
  Harness harness;
  Request request = MakeRequest(1, 5, 100);
  request.deadline = harness.clock.Now() + 5 * kSecond;
  const auto sink = harness.SubmitAndPark(request);
  harness.clock.Advance(4 * kSecond);
  EXPECT_EQ(harness.Snapshot().stats.num_parked_sequences, 1);
  harness.clock.Advance(kSecond);
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().finish, FinishReason::kDeadline);
  EXPECT_EQ(sink->output().report.finished, request.deadline);
  EXPECT_EQ(harness.Snapshot().stats.num_pages_used, 0);
}

TEST(EngineDeadlineTest, EndsARequestThatRunsAndOneThatWaits) {
  ExecutorLimits limits = MakeLimits();
  limits.max_running = 1;
  Harness harness(limits);
  Request request = MakeRequest(1, 5, 200);
  request.deadline = harness.clock.Now() + kSecond;
  const auto running = harness.SubmitAndHold(request);
  request.id = 2;
  const auto waiting = harness.Submit(request);
  harness.clock.Advance(kSecond);
  harness.executor.Resume();
  running->AwaitFinished();
  waiting->AwaitFinished();
  EXPECT_EQ(running->output().finish, FinishReason::kDeadline);
  EXPECT_LE(running->num_tokens(), 1);
  EXPECT_EQ(waiting->output().finish, FinishReason::kDeadline);
  EXPECT_EQ(waiting->num_tokens(), 0);
}

TEST(EngineDeadlineTest, RefusesOneThatHasPassed) {
  Harness harness;
  Request request = MakeRequest(1);
  request.deadline = harness.clock.Now() - 1;
  SubmitRefusal refusal;
  const absl::Status status =
      harness.engine->Submit(request, std::make_shared<CollectingSink>(), &refusal);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(refusal.reason, RefusalReason::kDeadline);
}

// Steps of one second, each of which runs one prompt of eight tokens to its end; two prompts wait.
TEST(EngineDeadlineTest, RefusesOneThatTheQueueCannotMeet) {
  ExecutorLimits limits = MakeLimits();
  limits.max_running = 1;
  Harness harness(limits);
  std::promise<void> in_fourth_step;
  std::promise<void> go_on;
  int num_steps = 0;
  harness.executor.model()->next_token = [&](std::span<const TokenId>, int) {
    harness.clock.Advance(kSecond);
    if (++num_steps == 4) {
      in_fourth_step.set_value();
      go_on.get_future().wait();
    }
    return 5;
  };
  std::vector<std::shared_ptr<CollectingSink>> sinks = {
      harness.SubmitAndHold(MakeRequest(1, 8, 1))};
  for (RequestId id = 2; id <= 6; ++id) sinks.push_back(harness.Submit(MakeRequest(id, 8, 1)));
  harness.executor.Resume();
  in_fourth_step.get_future().wait();

  Request late = MakeRequest(7);
  late.deadline = harness.clock.Now() + 2 * kSecond;
  SubmitRefusal refusal;
  const absl::Status status =
      harness.engine->Submit(late, std::make_shared<CollectingSink>(), &refusal);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(refusal.reason, RefusalReason::kDeadline);
  EXPECT_EQ(refusal.predicted_wait, 2 * kSecond);
  late.deadline += 1;
  sinks.push_back(harness.Submit(late));
  go_on.set_value();
  for (const auto& sink : sinks) sink->AwaitFinished();
}

// The queue's limits.

TEST(EngineQueueTest, RefusesWhenTooManyRequestsWait) {
  ExecutorLimits limits = MakeLimits();
  limits.max_running = 1;
  EngineOptions options;
  options.scheduler.max_waiting_requests = 2;
  Harness harness(limits, options);
  const auto running = harness.SubmitAndHold(MakeRequest(1));
  const auto first = harness.Submit(MakeRequest(2));
  const auto second = harness.Submit(MakeRequest(3));
  SubmitRefusal refusal;
  auto refused = std::make_shared<CollectingSink>();
  const absl::Status status = harness.engine->Submit(MakeRequest(4), refused, &refusal);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refusal.reason, RefusalReason::kTooManyRequests);
  EXPECT_STREQ(refusal.what, "waiting requests");
  EXPECT_EQ(refusal.limit, 2);
  EXPECT_EQ(refusal.actual, 3);
  EXPECT_EQ(refused.use_count(), 1) << "a refused sink is dropped";

  harness.engine->Cancel(3);
  harness.executor.Resume();
  second->AwaitFinished();
  const auto next = harness.Submit(MakeRequest(5));
  next->AwaitFinished();
  EXPECT_EQ(next->num_tokens(), 8);
  EXPECT_EQ(refused->num_finished(), 0);
}

TEST(EngineQueueTest, RefusesWhenTooManyPromptTokensWait) {
  ExecutorLimits limits = MakeLimits();
  limits.max_running = 1;
  EngineOptions options;
  options.scheduler.max_waiting_prompt_tokens = 100;
  Harness harness(limits, options);
  const auto running = harness.SubmitAndHold(MakeRequest(1));
  const auto waiting = harness.Submit(MakeRequest(2, 60));
  SubmitRefusal refusal;
  const absl::Status status =
      harness.engine->Submit(MakeRequest(3, 41), std::make_shared<CollectingSink>(), &refusal);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 100 waiting prompt tokens"));
  EXPECT_EQ(refusal.actual, 101);
  const auto fits = harness.Submit(MakeRequest(4, 40));
  harness.executor.Resume();
  fits->AwaitFinished();
}

// Parked requests lose their pages to others, and neither wait nor run; still they are bounded.
TEST(EngineQueueTest, ParkedRequestsCannotPileUp) {
  ExecutorLimits limits = MakeLimits();
  limits.max_running = 2;
  EngineOptions options;
  options.scheduler.max_waiting_requests = 3;
  Harness harness(limits, options);
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  absl::Status status;
  for (RequestId id = 1; id <= 20 && status.ok(); ++id) {
    sinks.push_back(std::make_shared<CollectingSink>());
    status = harness.engine->Submit(MakeRequest(id, 20, 200), sinks.back());
    if (status.ok()) harness.engine->Park(id, 0);
    harness.Snapshot();  // the engine has taken both
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_LE(harness.engine->num_unfinished_requests(), 5);
  sinks.pop_back();
  harness.engine->StartDrain(harness.clock.Now());
  for (const auto& sink : sinks) sink->AwaitFinished();
}

TEST(EngineQueueTest, RefusesWhatCanNeverFit) {
  Harness harness;
  SubmitRefusal refusal;
  const absl::Status status = harness.engine->Submit(MakeRequest(1, 200, 100),
                                                     std::make_shared<CollectingSink>(), &refusal);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal.reason, RefusalReason::kInvalid);
}

TEST(EngineQueueTest, RefusesAnIdInUse) {
  Harness harness;
  const auto sink = harness.SubmitAndHold(MakeRequest(1));
  const absl::Status status =
      harness.engine->Submit(MakeRequest(1), std::make_shared<CollectingSink>());
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  harness.executor.Resume();
  sink->AwaitFinished();
  EXPECT_EQ(sink->num_tokens(), 8);
}

TEST(EngineSetupTest, ABadSetupIsAStatus) {
  const std::vector<std::pair<int ExecutorLimits::*, std::string>> fields = {
      {&ExecutorLimits::num_pages, "KV pages"},
      {&ExecutorLimits::page_tokens, "tokens a page"},
      {&ExecutorLimits::max_batch_tokens, "max batch tokens"},
      {&ExecutorLimits::max_running, "max running"},
      {&ExecutorLimits::max_context, "max context"},
      {&ExecutorLimits::max_samples, "max samples"}};
  for (const auto& [field, name] : fields) {
    class Limited final : public Executor {
     public:
      explicit Limited(const ExecutorLimits& limits) : limits_(limits) {}
      ExecutorLimits limits() const override { return limits_; }
      StepTicket Launch(const StepInput&) override { return 0; }
      StepResult Wait(StepTicket) override { return {}; }

     private:
      const ExecutorLimits limits_;
    };
    ExecutorLimits limits = MakeLimits();
    limits.*field = 0;
    Limited limited(limits);
    const auto engine = Engine::Start({}, &limited);
    EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(engine.status().message()), name + ": expected at least 1, got 0");
  }
}

}  // namespace
}  // namespace tessera
