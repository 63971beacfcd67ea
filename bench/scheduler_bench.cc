// Host time of one step around the model: plan, build and commit, with an executor that costs
// nothing. Goal at 256 decoding sequences: under 60 us a step, and no heap allocation.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "scheduler/scheduler.h"
#include "scheduler/step_builder.h"
#include "tests/support/count_allocations.h"

namespace tessera {
namespace {

constexpr int kPromptLength = 100;
constexpr int kMaxTokens = 3000;

ExecutorLimits Limits(int num_running) {
  ExecutorLimits limits;
  limits.num_pages = num_running * 64;
  limits.page_tokens = 64;
  limits.max_batch_tokens = std::max(512, num_running);
  limits.max_running = num_running;
  limits.max_context = 4096;
  limits.max_samples = limits.max_batch_tokens;
  limits.vocab_size = 50000;
  return limits;
}

// A scheduler whose every sampled token is the same.
class Loop {
 public:
  explicit Loop(const ExecutorLimits& limits)
      : limits_(limits),
        scheduler_(limits_, {}),
        builder_(limits_),
        sampled_(limits_.max_samples, SampledToken{5, TokenStatus::kOk, {}}) {
    events_.reserve(limits_.max_samples);
  }

  void Add(int prompt_length, int max_tokens) {
    Request request;
    request.id = ++last_id_;
    request.tenant = static_cast<TenantId>(last_id_ % 4);
    request.prompt.assign(prompt_length, static_cast<TokenId>(last_id_ % 50000));
    request.max_tokens = max_tokens;
    scheduler_.Add(std::move(request), 0);
  }

  int Step() {
    events_.clear();
    const StepPlan& plan = scheduler_.Plan(0, &events_);
    benchmark::DoNotOptimize(builder_.Build(plan));
    const int num_tokens = plan.num_tokens;
    scheduler_.Commit({std::span(sampled_).first(plan.num_samples)}, 0, &events_);
    return num_tokens;
  }

  // Until every slot decodes.
  void Fill(int num_waiting) {
    for (int i = 0; i < limits_.max_running; ++i) Add(kPromptLength, kMaxTokens);
    while (Step() != limits_.max_running) continue;
    for (int i = 0; i < num_waiting; ++i) Add(kPromptLength, kMaxTokens);
  }

 private:
  const ExecutorLimits limits_;
  Scheduler scheduler_;
  StepBuilder builder_;
  std::vector<SampledToken> sampled_;
  std::vector<TokenEvent> events_;
  RequestId last_id_ = 0;
};

void DecodeSteps(benchmark::State& state, int num_waiting) {
  const int num_running = static_cast<int>(state.range(0));
  auto loop = std::make_unique<Loop>(Limits(num_running));
  loop->Fill(num_waiting);
  int num_steps = 0;
  int64_t num_in_loop = 0;
  while (state.KeepRunning()) {
    if (++num_steps == kMaxTokens - 2 * num_running) {
      state.PauseTiming();
      loop = std::make_unique<Loop>(Limits(num_running));
      loop->Fill(num_waiting);
      num_steps = 1;
      state.ResumeTiming();
    }
    const int64_t before = NumHeapAllocations();
    loop->Step();
    num_in_loop += NumHeapAllocations() - before;
  }
  state.counters["allocations"] =
      benchmark::Counter(static_cast<double>(num_in_loop), benchmark::Counter::kAvgIterations);
}

void BM_Decode(benchmark::State& state) { DecodeSteps(state, 0); }
BENCHMARK(BM_Decode)->Arg(1)->Arg(32)->Arg(256)->Unit(benchmark::kMicrosecond);

void BM_DecodeWithAThousandWaiting(benchmark::State& state) { DecodeSteps(state, 1000); }
BENCHMARK(BM_DecodeWithAThousandWaiting)->Arg(256)->Unit(benchmark::kMicrosecond);

// Slots are free, pages are not: a thousand long prompts wait, some start, some are preempted.
void BM_FullPoolAndLongQueue(benchmark::State& state) {
  ExecutorLimits limits = Limits(256);
  limits.num_pages = 1200;
  Loop loop(limits);
  for (int i = 0; i < 64; ++i) loop.Add(kPromptLength, kMaxTokens);
  for (int i = 0; i < 1000; ++i) loop.Add(3000, 50);
  for (int i = 0; i < 500; ++i) loop.Step();
  while (state.KeepRunning()) loop.Step();
}
BENCHMARK(BM_FullPoolAndLongQueue)->Iterations(2000)->Unit(benchmark::kMicrosecond);

// All steps from the arrival of a 1,000-token prompt beside decoding sequences to its first token.
void BM_StartLongPrompt(benchmark::State& state) {
  const int num_running = static_cast<int>(state.range(0));
  while (state.KeepRunning()) {
    state.PauseTiming();
    auto loop = std::make_unique<Loop>(Limits(num_running));
    for (int i = 0; i + 1 < num_running; ++i) loop->Add(kPromptLength, kMaxTokens);
    while (loop->Step() != num_running - 1) continue;
    state.ResumeTiming();
    loop->Add(1000, kMaxTokens);
    while (loop->Step() != num_running) continue;
    state.PauseTiming();
    loop.reset();
    state.ResumeTiming();
  }
}
BENCHMARK(BM_StartLongPrompt)->Arg(32)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tessera

BENCHMARK_MAIN();
