#include <algorithm>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/scheduler.h"
#include "scheduler/step_builder.h"
#include "tests/scheduler/scheduler_harness.h"
#include "tests/support/fake_executor.h"

// Plans made while a step is in flight.

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class PlanAheadTest : public testing::Test {
 protected:
  void Start(const ExecutorLimits& limits = SmallLimits(), const SchedulerOptions& options = {}) {
    ExecutorLimits overlapping = limits;
    overlapping.max_in_flight = 2;
    scheduler_ = std::make_unique<Scheduler>(overlapping, options);
    executor_ = std::make_unique<FakeExecutor>(overlapping);
    builder_ = std::make_unique<StepBuilder>(overlapping);
  }

  // The rows' tokens; empty if nothing was planned.
  std::vector<TokenId> Launch() {
    const StepPlan& plan = scheduler_->Plan(now_, &events_);
    scheduler_->CheckInvariants();
    if (plan.empty()) return {};
    const StepInput& input = builder_->Build(plan);
    executor_->Launch(input);
    return {input.tokens.begin(), input.tokens.end()};
  }
  void Commit() {
    now_ += kSecond;
    scheduler_->Commit(executor_->Wait(++num_waited_), now_, &events_);
    scheduler_->CheckInvariants();
  }
  // The tokens that came since.
  std::vector<TokenId> TakeTokens(FinishReason* finish = nullptr) {
    std::vector<TokenId> tokens;
    for (const TokenEvent& event : events_) {
      if (event.token >= 0) tokens.push_back(event.token);
      if (finish != nullptr && event.finish != FinishReason::kNone) *finish = event.finish;
    }
    events_.clear();
    return tokens;
  }
  int num_pages_used() const { return scheduler_->stats().num_pages_used; }

  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<FakeExecutor> executor_;
  std::unique_ptr<StepBuilder> builder_;
  StepTicket num_waited_ = 0;
  TimeNs now_ = 0;
  std::vector<TokenEvent> events_;
};

TEST_F(PlanAheadTest, ATokenBeingChosenIsNamedByItsSlot) {
  Start();
  scheduler_->Add(MakeRequest(1, 3, 5), 0);
  EXPECT_THAT(Launch(), SizeIs(3));
  EXPECT_THAT(Launch(), ElementsAre(LastTokenOf(0)));
  Commit();
  const std::vector<TokenId> first = TakeTokens();
  EXPECT_THAT(Launch(), ElementsAre(LastTokenOf(0))) << "the second is in flight still";
  Commit();
  Commit();
  const std::vector<TokenId> next = TakeTokens();
  EXPECT_THAT(Launch(), ElementsAre(next.back())) << "nothing is in flight";
  Commit();
}

TEST_F(PlanAheadTest, AnEndByLengthIsKnownAhead) {
  Start();
  scheduler_->Add(MakeRequest(1, 3, 2), 0);
  EXPECT_THAT(Launch(), SizeIs(3));
  EXPECT_THAT(Launch(), SizeIs(1));
  Commit();
  EXPECT_THAT(Launch(), IsEmpty());
  FinishReason finish = FinishReason::kNone;
  Commit();
  EXPECT_THAT(TakeTokens(&finish), SizeIs(2));
  EXPECT_EQ(finish, FinishReason::kLength);
  EXPECT_EQ(num_pages_used(), 0);
}

TEST_F(PlanAheadTest, AStopTokensSlotAndPagesStayUntilTheRowInVainIsDone) {
  Start();
  Request request = MakeRequest(1, 3, 50);
  for (TokenId token = 0; token < 1000; ++token) request.stop_tokens.push_back(token);
  scheduler_->Add(request, 0);
  EXPECT_THAT(Launch(), SizeIs(3));
  EXPECT_THAT(Launch(), SizeIs(1));
  Commit();
  FinishReason finish = FinishReason::kNone;
  EXPECT_THAT(TakeTokens(&finish), SizeIs(1));
  EXPECT_EQ(finish, FinishReason::kStopToken);
  EXPECT_EQ(num_pages_used(), 1);
  scheduler_->Add(MakeRequest(2, 3, 1), now_);
  EXPECT_THAT(Launch(), SizeIs(3));
  EXPECT_EQ(num_pages_used(), 2) << "the page in flight is nobody else's";
  Commit();
  EXPECT_THAT(TakeTokens(), IsEmpty()) << "the row was in vain";
  EXPECT_EQ(num_pages_used(), 1);
  Commit();
  EXPECT_THAT(TakeTokens(), SizeIs(1));
  EXPECT_EQ(num_pages_used(), 0);
  EXPECT_EQ(scheduler_->stats().generated_tokens, 2);
}

TEST_F(PlanAheadTest, CancelFreesPagesOnceBothStepsAreCommitted) {
  Start();
  scheduler_->Add(MakeRequest(1, 3, 50), 0);
  Launch();
  Launch();
  EXPECT_TRUE(scheduler_->Cancel(1, FinishReason::kCancelled, now_, &events_));
  scheduler_->CheckInvariants();
  EXPECT_THAT(events_, SizeIs(1));
  Commit();
  EXPECT_EQ(num_pages_used(), 1);
  Commit();
  EXPECT_EQ(num_pages_used(), 0);
  EXPECT_THAT(events_, SizeIs(1));
}

// Pages are short only at the third token: before that there was no need to wait.
TEST_F(PlanAheadTest, APreemptionWaitsUntilNothingIsInFlight) {
  ExecutorLimits limits = SmallLimits();
  limits.num_pages = 4;
  SchedulerOptions options;
  options.prefix_cache = false;
  Start(limits, options);
  scheduler_->Add(MakeRequest(1, 3, 12), 0);
  scheduler_->Add(MakeRequest(2, 3, 12), 0);
  bool was_empty = false;
  while (scheduler_->stats().num_preemptions == 0) {
    const bool is_in_flight = executor_->num_in_flight() > 0;
    const bool launched = !Launch().empty();
    EXPECT_FALSE(is_in_flight && scheduler_->stats().num_preemptions > 0);
    was_empty |= is_in_flight && !launched;
    if (executor_->num_in_flight() == 2 || !launched) Commit();
  }
  EXPECT_TRUE(was_empty);
}

TEST_F(PlanAheadTest, AForkIsPlannedOnWhenItIsKnown) {
  Start();
  Request request = MakeRequest(1, 3, 4);
  request.num_sequences = 3;
  scheduler_->Add(request, 0);
  EXPECT_THAT(Launch(), SizeIs(3));
  EXPECT_THAT(Launch(), IsEmpty());
  Commit();
  EXPECT_THAT(Launch(), SizeIs(3)) << "one row each";
  const std::vector<TokenId> ahead = Launch();
  EXPECT_THAT(ahead, SizeIs(3));
  EXPECT_TRUE(std::ranges::all_of(ahead, IsLastToken));
  Commit();
  Commit();
}

TEST_F(PlanAheadTest, SpeculationKnowsEveryToken) {
  SchedulerOptions options;
  options.max_draft_tokens = 4;
  Start(SmallLimits(), options);
  scheduler_->Add(MakeRequest(1, 3, 5), 0);
  EXPECT_THAT(Launch(), SizeIs(3));
  EXPECT_THAT(Launch(), IsEmpty());
  Commit();
  EXPECT_THAT(Launch(), SizeIs(1));
  Commit();
}

TEST_F(PlanAheadTest, ALongPromptsChunksFollowOneAnother) {
  Start();
  scheduler_->Add(MakeRequest(1, 20, 2), 0);
  EXPECT_THAT(Launch(), SizeIs(8));
  EXPECT_THAT(Launch(), SizeIs(8));
  Commit();
  EXPECT_THAT(Launch(), SizeIs(4));
  Commit();
  EXPECT_THAT(Launch(), ElementsAre(LastTokenOf(0)));
  Commit();
  Commit();
  EXPECT_THAT(TakeTokens(), SizeIs(2));
}

}  // namespace
}  // namespace tessera
