#include <algorithm>
#include <vector>

#include "base/check.h"
#include "scheduler/scheduler.h"

namespace tessera {

void Scheduler::CheckInvariants() const {
  cache_.CheckInvariants();
  CheckPlan();
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
    CHECK(in_flight_ || num_live > 0) << "request " << id << " has ended and is still known";
  }
  CHECK_EQ(num_slots, num_slots_);
}

void Scheduler::CheckSequence(const Sequence& sequence) const {
  const int num_tokens = static_cast<int>(sequence.tokens.size());
  CHECK_LE(sequence.committed, sequence.scheduled);
  CHECK_LE(sequence.scheduled, num_tokens);
  CHECK_LE(num_tokens, sequence.owner->max_length);
  if (!in_flight_) CHECK_EQ(sequence.committed, sequence.scheduled);
  switch (sequence.state) {
    case SequenceState::kRetiring:
      CHECK(in_flight_);
      [[fallthrough]];
    case SequenceState::kRunning: {
      CHECK(sequence.slot >= 0 && !sequence.pages.empty());
      CHECK_LT(sequence.committed, num_tokens) << "a sequence runs with nothing left to compute";
      const int num_pages = static_cast<int>(sequence.pages.size());
      CHECK_LE(cache_.PagesFor(sequence.scheduled), num_pages);
      CHECK_LE(num_pages, cache_.PagesFor(num_tokens));
      CHECK(std::ranges::find(running_, &sequence) != running_.end());
      break;
    }
    case SequenceState::kWaiting:
      CHECK(sequence.slot < 0 && sequence.pages.empty() && sequence.committed == 0);
      break;
    case SequenceState::kForking:
      CHECK(!sequence.owner->forked && sequence.pages.empty());
      CHECK_EQ(sequence.slot >= 0, sequence.owner->sequences[0].slot >= 0);
      break;
    case SequenceState::kFinished:
      CHECK(sequence.slot < 0 && sequence.pages.empty());
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
  if (!in_flight_) CHECK_EQ(num_running, static_cast<int>(running_.size()));
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
      for (int i = 0; options_.prefix_cache && !sequence.pages.empty() && i < num_full; ++i) {
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

void Scheduler::CheckPlan() const {
  if (!in_flight_) return;
  int num_tokens = 0;
  int num_samples = 0;
  for (const PlannedSequence& planned : plan_.sequences) {
    const Sequence& sequence = *planned.sequence;
    CHECK_GE(planned.num_tokens, 1);
    CHECK_EQ(planned.first, sequence.committed);
    CHECK_EQ(planned.first + planned.num_tokens, sequence.scheduled);
    const int first_page = planned.first / limits_.page_tokens;
    const int end = sequence.scheduled + planned.num_drafts;
    CHECK_LT(end, sequence.owner->max_length);
    CHECK_LE(cache_.PagesFor(end), static_cast<int>(sequence.pages.size()));
    for (int i = first_page; i < cache_.PagesFor(end); ++i) {
      CHECK(!cache_.is_shared(sequence.pages[i])) << "a shared page is written";
      CHECK(!cache_.index().Contains(sequence.pages[i]))
          << "a page that others may read is written";
    }
    num_tokens += planned.num_rows();
    num_samples += planned.num_scored + planned.num_samples + planned.num_drafts;
  }
  CHECK_EQ(num_tokens, plan_.num_tokens);
  CHECK_EQ(num_samples, plan_.num_samples);
  CHECK_LE(num_tokens, limits_.max_batch_tokens);
  CHECK_LE(num_samples, limits_.max_samples);
}

}  // namespace tessera
