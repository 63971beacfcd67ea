#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "scheduler/engine.h"
#include "tests/scheduler/engine_harness.h"

// An engine that drains, and one that is destroyed.

namespace tessera {
namespace {

using Harness = EngineHarness;

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
  const auto sink = harness.SubmitAndPark(MakeRequest(1, 5, 200));
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

}  // namespace
}  // namespace tessera
