#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/philox.h"
#include "gtest/gtest.h"
#include "scheduler/engine.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/fake_executor.h"
#include "tests/support/manual_clock.h"

namespace tessera {

inline constexpr TimeNs kSecond = 1'000'000'000;

inline ExecutorLimits MakeLimits() {
  return {.num_pages = 64,
          .page_tokens = 8,
          .max_batch_tokens = 32,
          .max_running = 4,
          .max_context = 256,
          .max_samples = 32,
          .vocab_size = 1000};
}

inline Request MakeRequest(RequestId id, int prompt_length = 5, int max_tokens = 8) {
  Request request;
  request.id = id;
  for (RequestId i = 0; i < static_cast<RequestId>(prompt_length); ++i) {
    request.prompt.push_back(static_cast<TokenId>((id * 31 + i * 7) % 1000));
  }
  request.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

// The tokens that the model, asked on its own, gives the request's sequence.
inline std::vector<TokenId> ExpectedTokens(const FakeModel& model, const Request& request,
                                           int index = 0) {
  SamplingParams params = request.sampling;
  params.seed = ForkSeed(params.seed, index);
  const int prompt_length = static_cast<int>(request.prompt.size());
  std::vector<TokenId> tokens = request.prompt;
  for (int i = 0; i < request.max_tokens; ++i) {
    tokens.push_back(model.Choose(tokens, prompt_length, params, {}, -1).token);
  }
  return {tokens.begin() + prompt_length, tokens.end()};
}

// Calls `function` in the step that chooses the request's output token `position`, on the engine
// thread. REQUIRES: nothing has run yet.
inline void InStepOf(FakeExecutor* executor, const Request& request, int position,
                     const std::function<void()>& function) {
  const auto size = request.prompt.size() + static_cast<size_t>(position);
  executor->model()->next_token = [=, prompt = request.prompt](std::span<const TokenId> tokens,
                                                               int) {
    if (tokens.size() == size && std::equal(prompt.begin(), prompt.end(), tokens.begin())) {
      function();
    }
    return static_cast<TokenId>(tokens.size());
  };
}

// What an engine reported: sums over its steps, and the latest.
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

// A clock at rest unless a test moves it, a KV-faithful fake model, an engine around them.
struct EngineHarness {
  explicit EngineHarness(const ExecutorLimits& limits = MakeLimits(), EngineOptions options = {})
      : executor(limits) {
    options.clock = &clock;
    engine = *Engine::Start(options, &executor);
  }

  std::shared_ptr<CollectingSink> Submit(Request request) {
    auto sink = std::make_shared<CollectingSink>();
    EXPECT_TRUE(engine->Submit(std::move(request), sink).ok());
    return sink;
  }
  // As Submit, but the executor holds back the step that runs it: a long prompt's first chunk.
  std::shared_ptr<CollectingSink> SubmitAndHold(Request request) {
    executor.Pause();
    const uint64_t num_steps = executor.num_steps();
    auto sink = Submit(std::move(request));
    executor.AwaitSteps(num_steps + 1);
    return sink;
  }
  // As Submit, then parks the sequence in its first step and waits until the engine sleeps for want
  // of work. REQUIRES: this is the first request.
  std::shared_ptr<CollectingSink> SubmitAndPark(Request request) {
    clock.AwaitSleeps(1);
    const RequestId id = request.id;
    auto sink = SubmitAndHold(std::move(request));
    engine->Park(id, 0);
    executor.Resume();
    clock.AwaitSleeps(2);
    return sink;
  }
  SchedulerSnapshot Snapshot() {
    std::promise<std::shared_ptr<const SchedulerSnapshot>> promise;
    EXPECT_TRUE(engine->RequestSnapshot([&](auto snapshot) { promise.set_value(snapshot); }).ok());
    return *promise.get_future().get();
  }

  ManualClock clock;
  FakeExecutor executor;
  std::unique_ptr<Engine> engine;
};

}  // namespace tessera
