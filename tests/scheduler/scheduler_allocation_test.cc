#include <gtest/gtest.h>

#include "scheduler/scheduler.h"
#include "scheduler/step_builder.h"
#include "tests/scheduler/scheduler_harness.h"
#include "tests/support/count_allocations.h"

namespace tessera {
namespace {

// 256 sequences decode across page boundaries; nothing starts or ends.
TEST(SchedulerAllocation, ASteadyStateAllocatesNothing) {
  ExecutorLimits limits;
  limits.num_pages = 2048;
  limits.page_tokens = 16;
  limits.max_batch_tokens = 512;
  limits.max_running = 256;
  limits.max_context = 512;
  limits.max_samples = 512;
  limits.vocab_size = 1000;
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

}  // namespace
}  // namespace tessera
