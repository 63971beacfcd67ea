#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/scheduler.h"
#include "scheduler/step_builder.h"
#include "tests/support/fake_executor.h"

namespace tessera {

inline constexpr TimeNs kSecond = 1'000'000'000;

// A scheduler, a builder and a fake executor driven step by step at times the test chooses.
class SchedulerHarness {
 public:
  using SequenceId = std::pair<RequestId, int>;

  SchedulerHarness(const ExecutorLimits& limits, const SchedulerOptions& options)
      : scheduler(limits, options), executor_(limits), builder_(limits) {}

  // Runs one step and says its rows: "1:4 2:1" for four rows of request 1, one of request 2;
  // sequences after the first of a request appear as "1.2:1". Empty if there was nothing to run.
  std::string Step() {
    const StepPlan& plan = scheduler.Plan(now, &events);
    scheduler.CheckInvariants();
    std::string trace;
    for (const PlannedSequence& planned : plan.sequences) {
      if (!trace.empty()) trace += ' ';
      trace += std::to_string(planned.sequence->owner->request.id);
      if (planned.sequence->index > 0) trace += '.' + std::to_string(planned.sequence->index);
      trace += ':' + std::to_string(planned.num_tokens);
    }
    num_page_copies += static_cast<int>(plan.page_copies.size());
    if (!plan.empty()) {
      const StepTicket ticket = executor_.Launch(builder_.Build(plan));
      now += ns_per_step + plan.num_tokens * ns_per_row;
      scheduler.Commit(executor_.Wait(ticket), now, &events);
    }
    scheduler.CheckInvariants();
    Hear();
    return trace;
  }

  // Steps until nothing is left to run; how many it took.
  int RunAll() {
    int num_steps = 0;
    while (scheduler.HasWork()) {
      Step();
      ++num_steps;
    }
    return num_steps;
  }

  // Takes in what happened outside of a step.
  void Hear() {
    for (TokenEvent& event : events) {
      const SequenceId id{event.request, event.index};
      if (event.token >= 0) outputs[id].push_back(event.token);
      if (event.finish != FinishReason::kNone) ends.insert_or_assign(id, event);
      heard.push_back(std::move(event));
    }
    events.clear();
  }

  FinishReason finish(RequestId id, int index = 0) const {
    const auto end = ends.find({id, index});
    return end == ends.end() ? FinishReason::kNone : end->second.finish;
  }
  const SequenceReport& report(RequestId id, int index = 0) const {
    return ends.at({id, index}).report;
  }

  SequenceSnapshot Explain(RequestId id, int index = 0) const {
    SchedulerSnapshot snapshot;
    scheduler.Explain(now, &snapshot);
    for (const SequenceSnapshot& entry : snapshot.sequences) {
      if (entry.request == id && entry.index == index) return entry;
    }
    return {};
  }

  FakeModel* model() { return executor_.model(); }

  Scheduler scheduler;
  TimeNs now = 0;
  TimeNs ns_per_step = 0;  // what a step takes, and
  TimeNs ns_per_row = 0;   // more for each row
  std::vector<TokenEvent> events;
  std::vector<TokenEvent> heard;
  std::map<SequenceId, std::vector<TokenId>> outputs;
  std::map<SequenceId, TokenEvent> ends;
  int num_page_copies = 0;

 private:
  FakeExecutor executor_;
  StepBuilder builder_;
};

inline ExecutorLimits SmallLimits() {
  ExecutorLimits limits;
  limits.num_pages = 64;
  limits.page_tokens = 4;
  limits.max_batch_tokens = 8;
  limits.max_running = 8;
  limits.max_context = 128;
  limits.max_samples = 16;
  limits.vocab_size = 1000;
  return limits;
}

// A request whose prompt no other request shares.
inline Request MakeRequest(RequestId id, int prompt_length, int max_tokens) {
  Request request;
  request.id = id;
  for (int i = 0; i < prompt_length; ++i) {
    request.prompt.push_back(static_cast<TokenId>((static_cast<int>(id) * 131 + i * 7) % 1000));
  }
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0.0f;
  return request;
}

}  // namespace tessera
