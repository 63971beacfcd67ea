#include <algorithm>

#include "scheduler/scheduler.h"

namespace tessera {
namespace {

SequencePhase PhaseOf(const Sequence& sequence) {
  if (sequence.parked) return SequencePhase::kParked;
  if (sequence.slot < 0) {
    return sequence.owner->started ? SequencePhase::kPreempted : SequencePhase::kWaiting;
  }
  const bool decodes = sequence.num_outputs() > 0 && sequence.num_lacking() <= 1;
  return decodes ? SequencePhase::kDecode : SequencePhase::kPrefill;
}

}  // namespace

void Scheduler::Explain(TimeNs now, SchedulerSnapshot* snapshot) const {
  snapshot->step = step_;
  snapshot->taken_at = now;
  snapshot->stats = stats();
  snapshot->sequences.clear();
  const auto describe = [&](const Sequence& sequence, WaitReason reason, int position) {
    SequenceSnapshot entry = Describe(sequence, now);
    if (entry.wait_reason == WaitReason::kNone) entry.wait_reason = reason;
    entry.position_in_queue = position;
    snapshot->sequences.push_back(entry);
  };
  const auto describe_followers = [&](const Sequence& sequence, WaitReason reason, int position) {
    if (sequence.index != 0 || sequence.owner->forked) return;
    for (const Sequence& other : sequence.owner->sequences) {
      if (other.state == SequenceState::kForking) describe(other, reason, position);
    }
  };
  for (const Sequence* sequence : running_) {
    if (sequence->state != SequenceState::kRunning) continue;
    describe(*sequence, WaitReason::kNone, 0);
    describe_followers(*sequence, WaitReason::kNone, 0);
  }
  std::vector<Sequence*> queue;
  waiting_.List(&queue);
  for (size_t i = 0; i < queue.size(); ++i) {
    const WaitReason reason = ReasonToWait(*queue[i], *queue[0]);
    describe(*queue[i], reason, static_cast<int>(i));
    describe_followers(*queue[i], reason, static_cast<int>(i));
  }
}

SequenceSnapshot Scheduler::Describe(const Sequence& sequence, TimeNs now) const {
  SequenceSnapshot entry;
  entry.request = sequence.owner->request.id;
  entry.index = sequence.index;
  entry.phase = PhaseOf(sequence);
  entry.wait_reason = sequence.parked ? WaitReason::kSlowReader : WaitReason::kNone;
  entry.prompt_tokens = sequence.owner->prompt_length;
  entry.computed_tokens = sequence.committed;
  entry.output_tokens = sequence.report.completion_tokens;
  entry.num_pages = static_cast<int>(sequence.pages.size());
  entry.num_preemptions = sequence.report.num_preemptions;
  entry.priority = sequence.owner->request.priority;
  entry.tenant = sequence.owner->request.tenant;
  entry.waited = sequence.slot < 0 ? now - sequence.waiting_since : 0;
  return entry;
}

// What the last plan found, or, of sequences it did not come to, what stands before them.
WaitReason Scheduler::ReasonToWait(const Sequence& sequence, const Sequence& first) const {
  if (sequence.skipped_in_step == step_) return sequence.wait_reason;
  if (sequence.priority > first.priority) return WaitReason::kPriority;
  const TenantId tenant = sequence.owner->request.tenant;
  const TenantId served_first = first.owner->request.tenant;
  if (ledger_.service(tenant) > ledger_.service(served_first)) return WaitReason::kFairness;
  return admission_stopped_by_;
}

}  // namespace tessera
