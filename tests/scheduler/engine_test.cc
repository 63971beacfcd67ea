#include "scheduler/engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
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
  harness.clock.AwaitSleeps(1);
  const auto sink = harness.SubmitAndHold(MakeRequest(1, 5, 100));
  harness.engine->Park(1, 0);
  harness.executor.Resume();
  harness.clock.AwaitSleeps(2);
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
  harness.clock.AwaitSleeps(1);
  const auto sink = harness.SubmitAndHold(request);
  harness.engine->Park(1, 0);
  harness.executor.Resume();
  harness.clock.AwaitSleeps(2);
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

// Drain.

TEST(EngineDrainTest, FinishesWhatIsInFlightAndRefusesTheRest) {
  ExecutorLimits limits = MakeLimits();
  limits.max_running = 2;
  Harness harness(limits);
  std::vector<std::shared_ptr<CollectingSink>> sinks = {harness.SubmitAndHold(MakeRequest(1))};
  for (RequestId id = 2; id <= 6; ++id) sinks.push_back(harness.Submit(MakeRequest(id)));
  harness.engine->StartDrain(kNoDeadline);
  EXPECT_TRUE(harness.engine->draining());
  SubmitRefusal refusal;
  const absl::Status status =
      harness.engine->Submit(MakeRequest(9), std::make_shared<CollectingSink>(), &refusal);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(refusal.reason, RefusalReason::kDraining);
  harness.executor.Resume();
  harness.engine->Drain(kNoDeadline);
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->num_finished(), 1);
    EXPECT_EQ(sink->num_tokens(), 8);
  }
  EXPECT_EQ(harness.engine->RequestSnapshot([](auto) {}).code(), absl::StatusCode::kUnavailable);
}

// One is parked, one runs, one waits; none would end by itself before the deadline.
TEST(EngineDrainTest, EndsWhatIsLeftAtTheDeadline) {
  ExecutorLimits limits = MakeLimits();
  limits.max_running = 2;
  Harness harness(limits);
  const Request running_request = MakeRequest(2, 5, 200);
  InStepOf(&harness.executor, running_request, 3, [&] {
    harness.engine->StartDrain(harness.clock.Now() + kSecond);
    harness.clock.Advance(kSecond);
  });
  const auto parked = harness.SubmitAndHold(MakeRequest(1, 5, 200));
  harness.engine->Park(1, 0);
  const auto running = harness.Submit(running_request);
  const auto waiting = harness.Submit(MakeRequest(3, 5, 200));
  harness.executor.Resume();
  running->AwaitFinished();
  harness.engine->Drain(kNoDeadline);
  for (const auto& sink : {parked, running, waiting}) {
    EXPECT_EQ(sink->num_finished(), 1);
    EXPECT_EQ(sink->output().finish, FinishReason::kShutdown);
  }
  EXPECT_EQ(parked->num_tokens(), 1);
  EXPECT_EQ(running->num_tokens(), 4);
}

TEST(EngineDrainTest, ALaterCallCanOnlyBringTheDeadlineNearer) {
  Harness harness;
  harness.clock.AwaitSleeps(1);
  const auto sink = harness.SubmitAndHold(MakeRequest(1, 5, 200));
  harness.engine->Park(1, 0);
  harness.executor.Resume();
  harness.clock.AwaitSleeps(2);
  harness.engine->StartDrain(kNoDeadline);
  harness.engine->StartDrain(harness.clock.Now() + 2 * kSecond);
  harness.engine->StartDrain(harness.clock.Now() + 9 * kSecond);
  harness.clock.Advance(2 * kSecond);
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().finish, FinishReason::kShutdown);
}

TEST(EngineDrainTest, AClientsCancelStaysACancel) {
  Harness harness;
  const auto sink = harness.SubmitAndHold(MakeRequest(1, 5, 200));
  harness.engine->Cancel(1);
  harness.engine->StartDrain(harness.clock.Now());
  harness.executor.Resume();
  sink->AwaitFinished();
  EXPECT_EQ(sink->output().finish, FinishReason::kCancelled);
}

TEST(EngineDrainTest, ManyMayWaitForIt) {
  Harness harness;
  const auto sink = harness.SubmitAndHold(MakeRequest(1, 5, 50));
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { harness.engine->Drain(kNoDeadline); });
  }
  harness.executor.Resume();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sink->num_tokens(), 50);
}

TEST(EngineDrainTest, TheDestructorEndsEverySequence) {
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  {
    Harness harness;
    for (RequestId id = 1; id <= 10; ++id) sinks.push_back(harness.Submit(MakeRequest(id, 5, 200)));
  }
  for (const auto& sink : sinks) EXPECT_EQ(sink->num_finished(), 1);
}

// Snapshots.

TEST(EngineSnapshotTest, ComesAtTheNextStepBoundaryOfALongPrefill) {
  Harness harness;
  const auto sink = harness.SubmitAndHold(MakeRequest(1, 200, 10));
  std::promise<std::shared_ptr<const SchedulerSnapshot>> first;
  std::promise<std::shared_ptr<const SchedulerSnapshot>> second;
  auto first_answer = first.get_future();
  auto second_answer = second.get_future();
  ASSERT_TRUE(harness.engine->RequestSnapshot([&](auto s) { first.set_value(s); }).ok());
  ASSERT_TRUE(harness.engine->RequestSnapshot([&](auto s) { second.set_value(s); }).ok());
  EXPECT_EQ(first_answer.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  harness.executor.Resume();
  const auto snapshot = first_answer.get();
  EXPECT_EQ(snapshot, second_answer.get()) << "those who ask during one step share one";
  EXPECT_EQ(snapshot->step, 1);
  EXPECT_EQ(snapshot->taken_at, harness.clock.Now());
  ASSERT_EQ(snapshot->sequences.size(), 1);
  EXPECT_EQ(snapshot->sequences[0].request, 1);
  EXPECT_EQ(snapshot->sequences[0].phase, SequencePhase::kPrefill);
  EXPECT_GT(snapshot->sequences[0].computed_tokens, 0);
  EXPECT_LE(snapshot->sequences[0].computed_tokens, 32);
  sink->AwaitFinished();
}

TEST(EngineSnapshotTest, BoundsHowManyMayAskAndAnswersThemAll) {
  Harness harness;
  const auto sink = harness.SubmitAndHold(MakeRequest(1, 5, 1));
  std::atomic<size_t> num_answers = 0;
  const auto count = [&](const auto&) { ++num_answers; };
  for (size_t i = 0; i < Engine::kMaxSnapshotCallers; ++i) {
    ASSERT_TRUE(harness.engine->RequestSnapshot(count).ok());
  }
  EXPECT_EQ(harness.engine->RequestSnapshot(count).code(), absl::StatusCode::kResourceExhausted);
  harness.engine->StartDrain(kNoDeadline);  // nothing will be left but those who ask
  harness.executor.Resume();
  harness.engine->Drain(kNoDeadline);
  EXPECT_EQ(num_answers, Engine::kMaxSnapshotCallers);
}

// What observers and the publisher's queue see.

class CountingObserver final : public EngineObserver {
 public:
  void OnStep(const StepReport& report) override {
    num_rows += report.num_rows;
    num_prefill_rows += report.num_prefill_rows;
    num_samples += report.num_samples;
    num_preemptions = report.stats.num_preemptions;
    last_step = report.step;
  }
  void OnIdle(const SchedulerStats& stats) override { idle_running = stats.num_running_sequences; }

  // Read after a drain.
  int num_rows = 0;
  int num_prefill_rows = 0;
  int num_samples = 0;
  int64_t num_preemptions = 0;
  uint64_t last_step = 0;
  int idle_running = -1;
};

TEST(EngineObserverTest, SeesEveryStepAndTheEndOfWork) {
  CountingObserver observer;
  EngineOptions options;
  options.observer = &observer;
  Harness harness(MakeLimits(), options);
  harness.clock.AwaitSleeps(1);
  const auto sink = harness.Submit(MakeRequest(1, 50, 10));
  sink->AwaitFinished();
  harness.clock.AwaitSleeps(2);
  EXPECT_EQ(observer.idle_running, 0);
  harness.engine->Drain(kNoDeadline);
  EXPECT_EQ(observer.num_rows, 50 + 9);
  EXPECT_EQ(observer.num_prefill_rows, 50);
  EXPECT_EQ(observer.num_samples, 10);
  EXPECT_EQ(observer.last_step, harness.executor.num_steps());
}

// A publisher that is always as far behind as the engine lets it be.
class LaggingSink final : public TokenSink {
 public:
  static constexpr uint64_t kMaxLag = 4;

  explicit LaggingSink(FakeExecutor* executor) : executor_(executor) {}

  void OnToken(TokenEvent event) override {
    ++num_events;
    // A batch of kMaxLag is being delivered and as many more are queued.
    const uint64_t num_steps = executor_->num_steps();
    EXPECT_LE(num_steps, num_events + 2 * kMaxLag);
    if (event.finish != FinishReason::kNone) return finished.set_value();
    if (num_events + kMaxLag <= 100) executor_->AwaitSteps(num_events + kMaxLag);
  }

  uint64_t num_events = 0;
  std::promise<void> finished;

 private:
  FakeExecutor* const executor_;
};

TEST(EnginePublisherTest, AStepWaitsForAPublisherThatLags) {
  EngineOptions options;
  options.max_undelivered_events = LaggingSink::kMaxLag;
  Harness harness(MakeLimits(), options);
  const auto sink = std::make_shared<LaggingSink>(&harness.executor);
  ASSERT_TRUE(harness.engine->Submit(MakeRequest(1, 5, 100), sink).ok());
  sink->finished.get_future().wait();
  EXPECT_EQ(sink->num_events, 100);
}

// Many threads.

// Finishes one of its sequences at its first token, as a stream does that has found a stop string.
class FinishingSink final : public CollectingSink {
 public:
  FinishingSink(Engine* engine, int index) : engine_(engine), index_(index) {}

  void OnToken(TokenEvent event) override {
    if (event.index == index_ && event.token >= 0) engine_->Finish(event.request, index_);
    CollectingSink::OnToken(std::move(event));
  }

 private:
  Engine* const engine_;
  const int index_;
};

// What one thread does: submits, and disturbs its own requests in every way.
void SubmitAndDisturb(Harness* harness, int thread,
                      std::vector<std::pair<Request, std::shared_ptr<CollectingSink>>>* accepted) {
  std::mt19937 random(static_cast<uint32_t>(thread));
  for (int i = 0; i < 120; ++i) {
    const auto id = static_cast<RequestId>(thread) * 1000 + static_cast<RequestId>(i) + 1;
    Request request =
        MakeRequest(id, static_cast<int>(1 + random() % 60), static_cast<int>(1 + random() % 40));
    request.num_sequences = static_cast<int>(1 + random() % 3);
    request.tenant = static_cast<TenantId>(thread % 3);
    const int index = static_cast<int>(random() % request.num_sequences);
    const auto what = random() % 6;
    const std::shared_ptr<CollectingSink> sink =
        what == 2 ? std::make_shared<FinishingSink>(harness->engine.get(), index)
                  : std::make_shared<CollectingSink>();
    if (!harness->engine->Submit(request, sink).ok()) {
      if (accepted->empty()) continue;
      const auto& [last_request, last_sink] = accepted->back();
      last_sink->AwaitFinished(last_request.num_sequences);
      continue;
    }
    accepted->push_back({request, sink});
    switch (what) {
      case 0:
        harness->engine->Cancel(id);
        break;
      case 1:
        sink->AwaitTokens(1);
        harness->engine->Cancel(id);
        break;
      case 3:
        harness->engine->Park(id, index);
        harness->engine->RequestSnapshot([](auto) {}).IgnoreError();
        harness->engine->Resume(id, index);
        break;
      default:
        break;
    }
  }
}

void CheckOutput(const FakeModel& model, const Request& request, CollectingSink* sink) {
  ASSERT_EQ(sink->num_finished(), request.num_sequences);
  for (int i = 0; i < request.num_sequences; ++i) {
    const auto output = sink->output(i);
    std::vector<TokenId> expected = ExpectedTokens(model, request, i);
    ASSERT_LE(output.tokens.size(), expected.size());
    if (output.finish != FinishReason::kLength) expected.resize(output.tokens.size());
    ASSERT_EQ(output.tokens, expected) << "request " << request.id << " sequence " << i;
    ASSERT_EQ(output.report.completion_tokens, output.tokens.size());
  }
}

class EngineThreadsTest : public testing::TestWithParam<int> {};

TEST_P(EngineThreadsTest, EverySequenceFinishesOnceWithItsOwnTokens) {
  ExecutorLimits limits = MakeLimits();
  limits.num_pages = 18;  // too few for all that may run: some are preempted
  limits.max_in_flight = GetParam();
  CountingObserver observer;
  EngineOptions options;
  options.observer = &observer;
  options.scheduler.max_waiting_requests = 24;
  options.max_undelivered_events = 8;  // so that Finish comes before most sequences have ended
  Harness harness(limits, options);
  std::vector<std::vector<std::pair<Request, std::shared_ptr<CollectingSink>>>> accepted(6);
  std::vector<std::thread> threads;
  threads.reserve(6);
  for (int thread = 0; thread < 6; ++thread) {
    threads.emplace_back([&, thread] { SubmitAndDisturb(&harness, thread, &accepted[thread]); });
  }
  for (std::thread& thread : threads) thread.join();
  harness.engine->Drain(kNoDeadline);
  std::map<FinishReason, int> num_finished;
  for (const auto& of_thread : accepted) {
    for (const auto& [request, sink] : of_thread) {
      CheckOutput(*harness.executor.model(), request, sink.get());
      for (int i = 0; i < request.num_sequences; ++i) ++num_finished[sink->output(i).finish];
    }
  }
  EXPECT_GT(num_finished[FinishReason::kLength], 50);
  EXPECT_GT(num_finished[FinishReason::kCancelled], 10);
  EXPECT_GT(num_finished[FinishReason::kStopString], 5);
  EXPECT_GT(observer.num_preemptions, 0);
  EXPECT_EQ(harness.engine->num_unfinished_requests(), 0);
}

INSTANTIATE_TEST_SUITE_P(StepsInFlight, EngineThreadsTest, testing::Values(1, 2));

}  // namespace
}  // namespace tessera
