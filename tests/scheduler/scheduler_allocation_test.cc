#include <gtest/gtest.h>

#include <utility>

#include "scheduler/scheduler.h"
#include "scheduler/step_builder.h"
#include "tests/scheduler/scheduler_harness.h"
#include "tests/support/count_allocations.h"

namespace tessera {
namespace {

ExecutorLimits LargeLimits() {
  ExecutorLimits limits;
  limits.num_pages = 2048;
  limits.page_tokens = 16;
  limits.max_batch_tokens = 512;
  limits.max_running = 256;
  limits.max_context = 512;
  limits.max_samples = 512;
  limits.vocab_size = 1000;
  return limits;
}

// 256 sequences decode across page boundaries; nothing starts or ends.
TEST(SchedulerAllocation, ASteadyStateAllocatesNothing) {
  const ExecutorLimits limits = LargeLimits();
  Scheduler scheduler(limits, {});
  StepBuilder builder(limits);
  for (RequestId id = 1; id <= 256; ++id) scheduler.Add(MakeRequest(id, 20, 90), 0);
  std::vector<SampledToken> sampled(limits.max_samples, SampledToken{5, TokenStatus::kOk, {}});
  std::vector<TokenEvent> events;
  events.reserve(limits.max_samples);
  const auto step = [&] {
    events.clear();
    const StepPlan& plan = scheduler.Plan(0, &events);
    builder.Build(plan);
    scheduler.Commit({std::span(sampled).first(plan.num_samples)}, 0, &events);
    return plan.num_tokens;
  };
  while (scheduler.stats().num_running_sequences < 256 || step() != 256) {
    if (scheduler.stats().num_running_sequences < 256) step();
  }
  const int64_t before = NumHeapAllocations();
  for (int i = 0; i < 64; ++i) ASSERT_EQ(step(), 256);
  EXPECT_EQ(NumHeapAllocations(), before);
}

// One that copied them would let small requests take 64 times their size each.
TEST(SchedulerAllocation, SequencesThatWaitHoldNoBiases) {
  Scheduler scheduler(LargeLimits(), {});
  const auto allocations_of_adding = [&](RequestId id, int num_biases) {
    Request request = MakeRequest(id, 20, 90);
    request.num_sequences = 64;
    for (TokenId token = 0; token < num_biases; ++token) {
      request.sampling.logit_bias.emplace_back(token, 1.0f);
    }
    const int64_t before = NumHeapAllocations();
    scheduler.Add(std::move(request), 0);
    return NumHeapAllocations() - before;
  };
  allocations_of_adding(1, 0);  // what grows once
  EXPECT_EQ(allocations_of_adding(2, 100), allocations_of_adding(3, 0));
}

}  // namespace
}  // namespace tessera
