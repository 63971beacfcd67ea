#include <algorithm>

#include "base/check.h"
#include "scheduler/scheduler.h"

namespace tessera {

// Preempts one sequence that has no rows in this step yet so that the beneficiary finds a page.
// False if the beneficiary itself was the one to give way. The first in running_ is planned first
// and so finds everyone else still without rows: it always moves on.
bool Scheduler::PreemptFor(const Sequence& beneficiary) {
  Sequence* victim = nullptr;
  for (Sequence* const other : running_) {
    if (other->state != SequenceState::kRunning || other->planned_in_step == step_) continue;
    if (victim == nullptr || GivesWayBefore(*other, *victim)) victim = other;
  }
  CHECK(victim != nullptr) << "a sequence that fits the pool alone found no page";
  Preempt(victim);
  pages_ran_out_ = true;
  return victim != &beneficiary;
}

// Parked first; a pinned one only for an older pinned one; then by priority; then by what it costs:
// most pages given back for each token to compute again.
bool Scheduler::GivesWayBefore(const Sequence& a, const Sequence& b) const {
  if (a.parked != b.parked) return a.parked;
  if (a.pinned != b.pinned) return b.pinned;
  if (!a.pinned && a.priority != b.priority) return a.priority > b.priority;
  if (!a.pinned) {
    const int64_t gain_a = int64_t{NumOwnPages(a)} * std::max(1, b.committed);
    const int64_t gain_b = int64_t{NumOwnPages(b)} * std::max(1, a.committed);
    if (gain_a != gain_b) return gain_a > gain_b;
  }
  if (a.owner->ticket != b.owner->ticket) return a.owner->ticket > b.owner->ticket;
  return a.index > b.index;
}

int Scheduler::NumOwnPages(const Sequence& sequence) const {
  return static_cast<int>(std::ranges::count_if(
      sequence.pages, [this](PageId page) { return !cache_.is_shared(page); }));
}

// Whoever is next may take the place of parked and of less urgent sequences, if that is enough.
// Finds these; false if there are none, or no need.
bool Scheduler::FindVictims() {
  const Sequence* const waiting = NextCandidate().sequence;
  if (waiting == nullptr) return false;
  victims_.clear();
  for (Sequence* const running : running_) {
    if (GivesWayTo(*waiting, *running)) victims_.push_back(running);
  }
  if (victims_.empty()) return false;
  MatchPrefix(*waiting);
  return !WaitsForSharedPrefix(*waiting) && !FitsWithout(*waiting, {}) &&
         FitsWithout(*waiting, victims_);
}

void Scheduler::PreemptForWaiting() {
  if (!FindVictims()) return;
  const Sequence* const waiting = NextCandidate().sequence;
  std::ranges::sort(
      victims_, [this](const Sequence* a, const Sequence* b) { return GivesWayBefore(*a, *b); });
  for (Sequence* const victim : victims_) {
    MatchPrefix(*waiting);
    if (FitsWithout(*waiting, {})) break;
    Preempt(victim);
    DropDeparted();
  }
}

bool Scheduler::GivesWayTo(const Sequence& waiting, const Sequence& running) const {
  return running.parked || (!running.pinned && running.priority > waiting.priority);
}

// Whether `waiting`, whose prefix was matched last, would fit if the victims were gone.
bool Scheduler::FitsWithout(const Sequence& waiting, const std::vector<Sequence*>& victims) {
  int num_slots = static_cast<int>(free_slots_.size());
  const int num_free = cache_.num_free() + NumPagesHeldOnlyBy(victims);
  int num_to_grow = NumPagesToGrow();
  for (const Sequence* const victim : victims) {
    num_slots += victim->num_slots();
    if (!victim->parked) num_to_grow -= NumPagesToGrow(*victim);
  }
  return waiting.num_slots() <= num_slots && FitsPages(waiting, num_free, num_to_grow);
}

// Siblings of one fork share pages, which come free only with the last of them.
int Scheduler::NumPagesHeldOnlyBy(const std::vector<Sequence*>& sequences) {
  int num_pages = 0;
  for (const Sequence* const sequence : sequences) {
    for (const PageId page : sequence->pages) {
      if (++num_holders_[page] == cache_.pool().references(page)) ++num_pages;
    }
  }
  for (const Sequence* const sequence : sequences) {
    for (const PageId page : sequence->pages) num_holders_[page] = 0;
  }
  return num_pages;
}

// The victim waits in its old place. What it computed stays known to the prefix cache for as long
// as nobody needs the pages, so coming back is often cheaper than it looks.
void Scheduler::Preempt(Sequence* victim) {
  CHECK(victim->state == SequenceState::kRunning && victim->planned_in_step != step_);
  CHECK_EQ(num_in_flight_, 0) << "steps in flight, whose pages may not be taken away";
  Free(victim);
  victim->num_recompute = victim->committed;
  victim->committed = victim->scheduled = 0;
  ++victim->report.num_preemptions;
  victim->pinned = victim->report.num_preemptions >= options_.max_preemptions;
  victim->state = SequenceState::kWaiting;
  victim->waiting_since = now_;
  victim->num_bypassed = 0;
  victim->wait_reason = WaitReason::kPages;
  waiting_.Insert(victim);
  ++stats_.num_preemptions;
  ++stats_.num_preempted_sequences;
}

}  // namespace tessera
