#include <atomic>
#include <chrono>
#include <future>
#include <memory>

#include "gtest/gtest.h"
#include "scheduler/engine.h"
#include "tests/scheduler/engine_harness.h"

// What those who watch an engine see: snapshots, observers, the publisher.

namespace tessera {
namespace {

using Harness = EngineHarness;

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

}  // namespace
}  // namespace tessera
