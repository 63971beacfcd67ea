#include <algorithm>
#include <map>
#include <vector>

#include "base/check.h"
#include "scheduler/scheduler.h"

namespace tessera {

void Scheduler::CheckInvariants() const {
  cache_.CheckInvariants();
  CheckPlans();
  CheckQueue();
  CheckPageReferences();
  std::vector<bool> is_slot_free(num_slots_);
  for (const int32_t slot : free_slots_) {
    CHECK(!is_slot_free[slot]) << "slot " << slot << " is free twice";
    is_slot_free[slot] = true;
  }
  int num_slots = static_cast<int>(free_slots_.size());
  for (const auto& [id, request] : requests_) {
    int num_live = 0;
    for (const Sequence& sequence : request->sequences) {
      CheckSequence(sequence);
      if (FindSequence(id, sequence.index) != nullptr) ++num_live;
      if (sequence.slot < 0) continue;
      CHECK(!is_slot_free[sequence.slot]) << "slot " << sequence.slot << " is free and held";
      ++num_slots;
    }
    CHECK_EQ(num_live, request->num_live);
    CHECK(num_in_flight_ > 0 || num_live > 0)
        << "request " << id << " has ended and is still known";
  }
  CHECK_EQ(num_slots, num_slots_);
}

void Scheduler::CheckSequence(const Sequence& sequence) const {
  const int num_tokens = static_cast<int>(sequence.tokens.size());
  CHECK_LE(sequence.committed, std::min(sequence.scheduled, num_tokens));
  CHECK_LE(sequence.scheduled, sequence.length());
  CHECK_LE(sequence.length(), sequence.owner->max_length);
  CHECK(sequence.num_pending >= 0 && sequence.num_pending <= sequence.num_in_flight);
  switch (sequence.state) {
    case SequenceState::kRetiring:
      CHECK_GT(sequence.num_in_flight, 0);
      CHECK(sequence.slot >= 0 && !sequence.pages.empty());
      break;
    case SequenceState::kRunning: {
      CHECK(sequence.slot >= 0 && !sequence.pages.empty());
      CHECK_LT(sequence.committed, num_tokens) << "a sequence runs with nothing left to compute";
      const int num_pages = static_cast<int>(sequence.pages.size());
      CHECK_LE(cache_.PagesFor(sequence.scheduled), num_pages);
      CHECK_LE(num_pages, cache_.PagesFor(sequence.length()));
      CHECK(std::ranges::find(running_, &sequence) != running_.end());
      if (sequence.num_in_flight == 0) CHECK_EQ(sequence.committed, sequence.scheduled);
      break;
    }
    case SequenceState::kWaiting:
      CHECK(sequence.slot < 0 && sequence.pages.empty() && sequence.scheduled == 0);
      CHECK_EQ(sequence.num_in_flight, 0);
      break;
    case SequenceState::kForking:
      CHECK(!sequence.owner->forked && sequence.pages.empty());
      CHECK_EQ(sequence.slot >= 0, sequence.owner->sequences[0].slot >= 0);
      break;
    case SequenceState::kFinished:
      CHECK(sequence.slot < 0 && sequence.pages.empty());
      CHECK_EQ(sequence.num_in_flight, 0);
      break;
  }
}

void Scheduler::CheckQueue() const {
  std::vector<Sequence*> queue;
  waiting_.List(&queue);
  CHECK_EQ(static_cast<int>(queue.size()), waiting_.size());
  int num_waiting = 0;
  int num_running = 0;
  int num_preempted = 0;
  int num_parked = 0;
  int64_t num_prompt_tokens = 0;
  for (const auto& [id, request] : requests_) {
    for (const Sequence& sequence : request->sequences) {
      if (sequence.parked) ++num_parked;
      if (sequence.state == SequenceState::kRunning) ++num_running;
      if (sequence.state != SequenceState::kWaiting) continue;
      CHECK(std::ranges::find(queue, &sequence) != queue.end());
      ++num_waiting;
      if (request->started) ++num_preempted;
      if (!request->started) num_prompt_tokens += request->prompt_length;
    }
  }
  CHECK_EQ(num_waiting, waiting_.size());
  CHECK_EQ(num_preempted, stats_.num_preempted_sequences);
  CHECK_EQ(num_parked, stats_.num_parked_sequences);
  CHECK_EQ(num_prompt_tokens, stats_.waiting_prompt_tokens);
  CHECK_EQ(num_running, static_cast<int>(running_.size()));
}

// Each page has as many references as tables hold it, and every table holds the pages of its stored
// tokens: those that are full are known to the index under the page before them.
void Scheduler::CheckPageReferences() const {
  const size_t page_tokens = limits_.page_tokens;
  std::vector<int> num_holders(cache_.num_pages());
  for (const auto& [id, request] : requests_) {
    for (const Sequence& sequence : request->sequences) {
      for (const PageId page : sequence.pages) ++num_holders[page];
      const int num_full = sequence.committed / limits_.page_tokens;
      const bool is_published = options_.prefix_cache && !sequence.is_faulty;
      for (int i = 0; is_published && !sequence.pages.empty() && i < num_full; ++i) {
        const PageId page = sequence.pages[i];
        CHECK(cache_.index().Contains(page));
        CHECK_EQ(cache_.index().parent(page), i == 0 ? kNoPage : sequence.pages[i - 1]);
        CHECK_EQ(cache_.index().salt(page), request->request.cache_salt);
        CHECK(std::ranges::equal(
            cache_.index().tokens(page),
            std::span(sequence.tokens).subspan(static_cast<size_t>(i) * page_tokens, page_tokens)));
      }
    }
  }
  for (PageId page = 0; page < cache_.num_pages(); ++page) {
    CHECK_EQ(num_holders[page], cache_.pool().references(page)) << "page " << page;
  }
}

// Each sequence's rows in flight follow one another, from what is committed to what is scheduled.
void Scheduler::CheckPlans() const {
  std::map<const Sequence*, const PlannedSequence*> last;
  for (int i = 0; i < num_in_flight_; ++i) {
    const StepPlan& plan = plans_[(first_in_flight_ + i) % plans_.size()];
    int num_tokens = 0;
    int num_samples = 0;
    for (const PlannedSequence& planned : plan.sequences) {
      CheckPlanned(plan, planned);
      const PlannedSequence*& before = last[planned.sequence];
      CHECK_EQ(planned.first, before == nullptr ? planned.sequence->committed
                                                : before->first + before->num_tokens);
      before = &planned;
      num_tokens += planned.num_rows();
      num_samples += planned.num_scored + planned.num_samples + planned.num_drafts;
    }
    CHECK_EQ(num_tokens, plan.num_tokens);
    CHECK_EQ(num_samples, plan.num_samples);
    CHECK_LE(num_tokens, limits_.max_batch_tokens);
    CHECK_LE(num_samples, limits_.max_samples);
  }
  for (const auto& [sequence, planned] : last) {
    CHECK_EQ(planned->first + planned->num_tokens, sequence->scheduled);
  }
}

void Scheduler::CheckPlanned(const StepPlan& plan, const PlannedSequence& planned) const {
  const Sequence& sequence = *planned.sequence;
  CHECK_GE(planned.num_tokens, 1);
  CHECK_GT(sequence.num_in_flight, 0);
  CHECK_LE(plan.step, sequence.planned_in_step);
  const int end = planned.first + planned.num_rows();
  CHECK_LT(end, sequence.owner->max_length);
  CHECK_LE(cache_.PagesFor(end), static_cast<int>(sequence.pages.size()));
  for (int i = planned.first / limits_.page_tokens; i < cache_.PagesFor(end); ++i) {
    CHECK(!cache_.is_shared(sequence.pages[i])) << "a shared page is written";
    CHECK(!cache_.index().Contains(sequence.pages[i])) << "a page that others may read is written";
  }
}

}  // namespace tessera
