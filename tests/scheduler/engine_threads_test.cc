#include <map>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "scheduler/engine.h"
#include "tests/scheduler/engine_harness.h"

// An engine that many threads use, in every way and at once.

namespace tessera {
namespace {

using Harness = EngineHarness;

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
