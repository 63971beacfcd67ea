#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "scheduler/tenant_ledger.h"
#include "tests/scheduler/scheduler_harness.h"

namespace tessera {
namespace {

TEST(TenantLedger, IdlenessBanksNoCredit) {
  TenantLedger ledger;
  ledger.StartWaiting(0);
  ledger.ChargePrompt(0, 100);
  ledger.ChargeOutput(0, 50);
  EXPECT_EQ(ledger.service(0), 200);
  ledger.StartWaiting(1);  // a newcomer starts level with those that wait
  EXPECT_EQ(ledger.service(1), 200);
  ledger.ChargePrompt(1, 30);
  ledger.StopWaiting(0);
  ledger.StartWaiting(0);
  EXPECT_EQ(ledger.service(0), 230);
  ledger.StartWaiting(2);
  EXPECT_EQ(ledger.service(2), 230);
}

TEST(TenantLedger, ANewcomerToAnEmptyQueueStartsWhereTheLastLeft) {
  TenantLedger ledger;
  ledger.StartWaiting(0);
  ledger.ChargePrompt(0, 70);
  ledger.StopWaiting(0);
  ledger.StartWaiting(3);
  EXPECT_EQ(ledger.service(3), 70);
  ledger.StartWaiting(0);  // has had no less than anyone: keeps its own
  EXPECT_EQ(ledger.service(0), 70);
}

// Keeps every tenant backlogged with requests of its own kind, and follows their service.
class FairnessTest : public testing::Test {
 protected:
  struct Kind {
    int prompt_length;
    int max_tokens;
    int num_sequences;
  };

  static constexpr int kNumSlots = 6;

  void Run(std::vector<Kind> kinds, int num_pages, int max_bypasses = 8) {
    ExecutorLimits limits = SmallLimits();
    limits.num_pages = num_pages;
    limits.max_running = kNumSlots;
    SchedulerOptions options;
    options.max_bypasses = max_bypasses;
    SchedulerHarness harness(limits, options);
    int64_t costliest_prompt = 0;
    int64_t costliest_output = 0;
    for (const Kind& kind : kinds) {
      costliest_prompt = std::max<int64_t>(costliest_prompt, kind.prompt_length);
      costliest_output = std::max(costliest_output, int64_t{2} * kind.max_tokens);
    }
    const int max_length = std::min(limits.max_context, num_pages * limits.page_tokens);
    const int64_t bound =
        int64_t{2} * (costliest_prompt + kNumSlots * costliest_output + int64_t{2} * max_length);

    std::vector<int64_t> service(kinds.size());
    int64_t lowest_gap = 0;
    int64_t highest_gap = 0;
    RequestId last_id = 0;
    std::map<RequestId, size_t> tenants;
    std::vector<int> num_open(kinds.size());
    size_t num_heard = 0;
    for (int step = 0; step < 6000; ++step) {
      for (size_t tenant = 0; tenant < kinds.size(); ++tenant) {
        for (; num_open[tenant] < 3 * kNumSlots; ++num_open[tenant]) {
          Request request =
              MakeRequest(++last_id, kinds[tenant].prompt_length, kinds[tenant].max_tokens);
          request.tenant = static_cast<TenantId>(tenant);
          request.num_sequences = kinds[tenant].num_sequences;
          request.cache_salt = last_id;
          tenants[last_id] = tenant;
          harness.scheduler.Add(std::move(request), 0);
        }
      }
      harness.Step();
      for (; num_heard < harness.heard.size(); ++num_heard) {
        const TokenEvent& event = harness.heard[num_heard];
        const size_t tenant = tenants.at(event.request);
        service[tenant] += event.token >= 0 ? 2 : 0;
        const bool is_first = first_tokens_.insert(event.request).second;
        if (is_first) service[tenant] += kinds[tenant].prompt_length;
        if (event.finish != FinishReason::kNone && event.index == 0) --num_open[tenant];
      }
      const int64_t gap = service[0] - service[1];
      lowest_gap = std::min(lowest_gap, gap);
      highest_gap = std::max(highest_gap, gap);
      ASSERT_LE(highest_gap - lowest_gap, bound) << "step " << step;
    }
    // Both were served, many times over what the bound lets them differ.
    EXPECT_GT(std::min(service[0], service[1]), 4 * bound);
  }

 private:
  std::set<RequestId> first_tokens_;
};

// The bound. Between two tenants that both have requests waiting all the time, the service of any
// span of time differs by at most 2 x (costliest prompt + slots x costliest output + 2 x longest
// sequence): a tenant is chosen only while it has had no more than the other (or, past a request
// that does not fit, no more than 2 x the longest sequence more), and from then on what it started
// costs at most one prompt and the outputs of all slots.
TEST_F(FairnessTest, EqualTenants) { Run({{8, 8, 1}, {8, 8, 1}}, 64); }
TEST_F(FairnessTest, LongPromptsBesideLongAnswers) { Run({{40, 2, 1}, {2, 30, 1}}, 64); }
TEST_F(FairnessTest, ManySequencesBesideOne) { Run({{8, 12, 4}, {8, 12, 1}}, 64); }
TEST_F(FairnessTest, ASmallPoolThatPreempts) { Run({{12, 24, 1}, {3, 10, 1}}, 14); }
TEST_F(FairnessTest, RequestsThatFitOnlyAlone) { Run({{44, 8, 1}, {3, 6, 1}}, 13); }
TEST_F(FairnessTest, RequestsThatOthersPassFreely) { Run({{44, 8, 1}, {3, 6, 1}}, 13, 1000); }

TEST(Fairness, CachedPromptTokensCostNothing) {
  ExecutorLimits limits = SmallLimits();
  limits.max_running = 1;
  SchedulerHarness harness(limits, {});
  harness.scheduler.Add(MakeRequest(1, 40, 1), 0);
  harness.RunAll();
  for (RequestId id = 2; id <= 5; ++id) {  // 2 and 4 find their 40 tokens, 3 and 5 compute 20
    Request request = id % 2 == 0 ? MakeRequest(1, 40, 1) : MakeRequest(id, 20, 1);
    request.id = id;
    request.tenant = static_cast<TenantId>(id % 2);
    harness.scheduler.Add(std::move(request), 0);
  }
  harness.RunAll();
  std::vector<RequestId> order;
  for (const TokenEvent& event : harness.heard) order.push_back(event.request);
  EXPECT_EQ(order, (std::vector<RequestId>{1, 2, 3, 4, 5}));
}

TEST(Fairness, ATenantsFloodDoesNotDelayAnother) {
  ExecutorLimits limits = SmallLimits();
  limits.max_running = 1;
  SchedulerHarness harness(limits, {});
  for (RequestId id = 1; id <= 50; ++id) harness.scheduler.Add(MakeRequest(id, 4, 2), 0);
  for (int i = 0; i < 4; ++i) harness.Step();
  Request request = MakeRequest(100, 4, 2);
  request.tenant = 1;
  harness.scheduler.Add(std::move(request), 0);
  for (int i = 0; i < 6; ++i) harness.Step();
  EXPECT_EQ(harness.finish(100), FinishReason::kLength);
  EXPECT_EQ(harness.Explain(50).wait_reason, WaitReason::kSlots);
}

}  // namespace
}  // namespace tessera
