#include <algorithm>

#include "base/check.h"
#include "scheduler/scheduler.h"

namespace tessera {
namespace {

constexpr int kMinPrefillRows = 16;

// Sequences that sample from the last row of this one: at the fork, all of the request.
int NumSamplers(const Sequence& sequence) {
  return sequence.owner->forked ? 1 : sequence.owner->num_live;
}

// Rows among the next `num_rows` that score a prompt token.
int NumScored(const Sequence& sequence, int num_rows) {
  if (sequence.index != 0) return 0;
  const int begin = std::max(sequence.scheduled, sequence.owner->num_scored);
  const int end = std::min(sequence.scheduled + num_rows, sequence.owner->num_rows_to_score());
  return std::max(0, end - begin);
}

int NumSamples(const Sequence& sequence, int num_rows) {
  const bool reaches_end = num_rows == sequence.num_lacking();
  return NumScored(sequence, num_rows) + (reaches_end ? NumSamplers(sequence) : 0);
}

}  // namespace

const StepPlan& Scheduler::Plan(TimeNs now, std::vector<TokenEvent>* events) {
  CHECK_LT(num_in_flight_, limits_.max_in_flight) << "a step was not committed";
  BeginStep(now);
  ExpireDeadlines(events);
  if (num_in_flight_ > 0 && !MayPlanAhead()) return *plan_;
  PreemptForWaiting();
  PlanDecodes();
  LimitPrefillRows();
  PlanPrefills();
  AdmitWaiting();
  GiveLeftoverRows();
  PlanDrafts();
  TakeOff();
  return *plan_;
}

void Scheduler::BeginStep(TimeNs now) {
  CHECK_GE(now, now_);
  now_ = now;
  plan_ = &plans_[(first_in_flight_ + num_in_flight_) % plans_.size()];
  plan_->step = ++step_;
  plan_->planned_at = now;
  plan_->sequences.clear();
  plan_->slot_starts.clear();
  plan_->page_copies.clear();
  plan_->drafts.clear();
  plan_->num_tokens = plan_->num_prefill_tokens = plan_->num_samples = 0;
  row_limit_ = long_chunk_limit_ = limits_.max_batch_tokens;
  pages_ran_out_ = false;
}

void Scheduler::ExpireDeadlines(std::vector<TokenEvent>* events) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_) {
    Cancel(deadlines_.begin()->second, FinishReason::kDeadline, now_, events);
  }
}

// While a step is in flight nobody may lose the pages that it writes, and guesses have no last
// token to go on from.
bool Scheduler::MayPlanAhead() {
  return options_.max_draft_tokens == 0 && NumPagesToDecode() <= cache_.num_free() &&
         !FindVictims();
}

int Scheduler::NumPagesToDecode() const {
  return static_cast<int>(std::ranges::count_if(running_, [this](const Sequence* sequence) {
    return !sequence->parked && sequence->num_lacking() == 1 && LacksNextPage(*sequence);
  }));
}

// Preemption leaves holes in running_ rather than move what this walks over.
void Scheduler::PlanDecodes() {
  for (Sequence* const sequence : running_) {
    if (sequence->state != SequenceState::kRunning || sequence->parked) continue;
    if (sequence->num_lacking() != 1) continue;
    if (ReserveNextPage(sequence)) PlanRows(sequence, 1);
  }
  DropDeparted();
}

// Where sequences decode, prompts get the rows that the target time leaves. They move on at any
// rate: a step may take 2.5 times as long as its decodes need, and kMinPrefillRows are always
// allowed.
void Scheduler::LimitPrefillRows() {
  const int num_decodes = plan_->num_tokens;
  int num_rows = limits_.max_batch_tokens - num_decodes;
  if (options_.target_step_time > 0 && num_decodes > 0 && step_time_.is_ready()) {
    const StepWork decodes = plan_->work();
    const TimeNs limit = std::max(options_.target_step_time, step_time_.Predict(decodes) * 5 / 2);
    num_rows = std::min(num_rows, std::max(kMinPrefillRows, NumRowsWithin(limit, decodes)));
  }
  row_limit_ = num_decodes + num_rows;
  long_chunk_limit_ = std::max(1, num_rows / 2);
}

// Rows of a prompt while others want some. A long one leaves them half. What would fit one step is
// not cut for those behind it: to share rows evenly only delays the first token of whoever is
// ahead.
int Scheduler::ChunkLimit(int num_lacking) const {
  if (options_.max_prefill_chunk > 0) return options_.max_prefill_chunk;
  return num_lacking <= limits_.max_batch_tokens ? num_lacking : long_chunk_limit_;
}

// Rows of the prompt that is furthest, and so dearest, with which a step stays within `limit`.
int Scheduler::NumRowsWithin(TimeNs limit, const StepWork& decodes) const {
  int depth = 0;
  for (const Sequence* const sequence : running_) {
    const bool is_prefill = !sequence->parked && sequence->num_lacking() > 0;
    if (is_prefill) depth = std::max(depth, sequence->scheduled);
  }
  int num_rows = 0;
  int too_many = limits_.max_batch_tokens + 1;
  while (too_many - num_rows > 1) {
    const int middle = num_rows + (too_many - num_rows) / 2;
    StepWork work = decodes;
    work.AddRows(depth, middle);
    (step_time_.Predict(work) <= limit ? num_rows : too_many) = middle;
  }
  return num_rows;
}

// Every half-computed prompt gets a part of the rows, so that a short one need not wait for a long
// one; what is left over goes to the first of them later.
void Scheduler::PlanPrefills() {
  num_partial_ = 0;
  for (Sequence* const sequence : running_) {
    if (sequence->parked || sequence->num_lacking() == 0) continue;
    PlanRows(sequence, ChunkLimit(sequence->num_lacking()));
    if (sequence->num_lacking() > 0) ++num_partial_;
  }
}

void Scheduler::GiveLeftoverRows() {
  for (Sequence* const sequence : running_) {
    if (rows_left() == 0) return;
    if (!sequence->parked && sequence->num_lacking() > 0) PlanRows(sequence, rows_left());
  }
}

void Scheduler::PlanRows(Sequence* sequence, int max_rows) {
  const int num_rows = std::min({sequence->num_lacking(), max_rows, rows_left()});
  const int num_allowed = RowsWithinSamples(*sequence, num_rows);
  if (num_allowed > 0) AddToPlan(sequence, num_allowed);
}

int Scheduler::RowsWithinSamples(const Sequence& sequence, int num_rows) const {
  const int num_left = limits_.max_samples - plan_->num_samples;
  if (NumSamples(sequence, num_rows) <= num_left) return num_rows;
  if (num_rows == sequence.num_lacking()) --num_rows;
  return num_rows - std::max(0, NumScored(sequence, num_rows) - num_left);
}

void Scheduler::AddToPlan(Sequence* sequence, int num_rows) {
  const bool is_decode =
      sequence->num_lacking() == 1 && sequence->length() > sequence->owner->prompt_length;
  if (sequence->planned_in_step != step_) {
    sequence->planned_in_step = step_;
    sequence->plan_index = static_cast<int>(plan_->sequences.size());
    const int first_scored = std::max(sequence->scheduled, sequence->owner->num_scored);
    plan_->sequences.push_back(
        {.sequence = sequence, .first = sequence->scheduled, .first_scored = first_scored});
  }
  PlannedSequence& planned = plan_->sequences[sequence->plan_index];
  const int num_samples = NumSamples(*sequence, num_rows);
  const int num_scored = NumScored(*sequence, num_rows);
  planned.num_tokens += num_rows;
  planned.num_scored += num_scored;
  planned.num_samples += num_samples - num_scored;
  plan_->num_tokens += num_rows;
  plan_->num_prefill_tokens += is_decode ? 0 : num_rows;
  plan_->num_samples += num_samples;
  sequence->scheduled += num_rows;
}

// The step is in flight from here on. What a sequence before its fork chooses is not its own alone,
// so it has nothing pending and gets no row until that is known.
void Scheduler::TakeOff() {
  if (plan_->empty()) return;
  ++num_in_flight_;
  for (const PlannedSequence& planned : plan_->sequences) {
    ++planned.sequence->num_in_flight;
    if (planned.sequence->owner->forked) planned.sequence->num_pending += planned.num_samples;
  }
}

bool Scheduler::LacksNextPage(const Sequence& sequence) const {
  const auto index = static_cast<size_t>(sequence.scheduled / limits_.page_tokens);
  return index == sequence.pages.size() || cache_.is_shared(sequence.pages[index]);
}

// The page of the next token: a new one, or after a fork a copy of the one still shared. False if
// the sequence had to give way itself.
bool Scheduler::ReserveNextPage(Sequence* sequence) {
  while (LacksNextPage(*sequence) && cache_.num_free() == 0) {
    if (!PreemptFor(*sequence)) return false;
  }
  if (!LacksNextPage(*sequence)) return true;  // it always had it, or is the fork's last holder now
  const int index = sequence->scheduled / limits_.page_tokens;
  if (index == static_cast<int>(sequence->pages.size())) {
    cache_.Extend(&sequence->pages);
    return true;
  }
  const PageId shared = sequence->pages[index];
  cache_.PinCopySource(shared);
  cache_.Replace(index, &sequence->pages);
  const int num_tokens = sequence->scheduled % limits_.page_tokens;
  plan_->page_copies.push_back({shared, sequence->pages[index], num_tokens});
  return true;
}

}  // namespace tessera
