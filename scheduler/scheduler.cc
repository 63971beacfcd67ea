#include "scheduler/scheduler.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tessera {
namespace {

auto Rank(const Sequence& sequence) {
  const int priority = sequence.pinned ? 0 : sequence.priority;
  return std::make_tuple(!sequence.pinned, priority, sequence.owner->ticket, sequence.index);
}

int MaxLength(const Request& request, int prompt_length, int limit) {
  if (request.max_tokens < 0) return limit;
  return std::min(limit, prompt_length + request.max_tokens);
}

}  // namespace

// With a row and a sampled row for each running sequence, every one of them moves in every step.
Scheduler::Scheduler(const ExecutorLimits& limits, const SchedulerOptions& options)
    : limits_(limits),
      options_(options),
      num_slots_(std::min({limits.max_running, limits.max_batch_tokens, limits.max_samples})),
      max_length_(static_cast<int>(
          std::min<int64_t>(limits.max_context, int64_t{limits.num_pages} * limits.page_tokens))),
      cache_(limits.num_pages, limits.page_tokens),
      waiting_(&ledger_),
      free_slots_(num_slots_),
      plans_(limits.max_in_flight),
      plan_(plans_.data()),
      num_holders_(limits.num_pages) {
  CHECK(limits.max_in_flight == 1 || limits.max_in_flight == 2) << limits.max_in_flight;
  CHECK_GE(num_slots_, 1);
  CHECK_GE(max_length_, 2);
  CHECK_GE(options.max_partial_prefills, 1);
  CHECK_GE(options.overdue_share, 1);
  std::iota(free_slots_.rbegin(), free_slots_.rend(), 0);
}

Scheduler::~Scheduler() = default;

absl::Status Scheduler::CheckAdmissible(const Request& request) const {
  const int64_t num_prompt = static_cast<int64_t>(request.prompt.size());
  if (num_prompt == 0)
    return absl::InvalidArgumentError("prompt: expected at least 1 token, got 0");
  if (num_prompt >= max_length_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt: expected at most ", max_length_ - 1, " tokens (context of ", limits_.max_context,
        ", cache of ", int64_t{limits_.num_pages} * limits_.page_tokens, "), got ", num_prompt));
  }
  if (request.max_tokens == 0 || request.max_tokens < -1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens: expected at least 1, got ", request.max_tokens));
  }
  if (request.max_tokens >= 0 && num_prompt + request.max_tokens > max_length_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_tokens: expected at most ", max_length_ - num_prompt, " after a prompt of ",
        num_prompt, " tokens (context of ", limits_.max_context, ", cache of ",
        int64_t{limits_.num_pages} * limits_.page_tokens, "), got ", request.max_tokens));
  }
  if (request.num_sequences < 1 || request.num_sequences > num_slots_) {
    return absl::InvalidArgumentError(absl::StrCat("n: expected 1 to ", num_slots_,
                                                   " (sequences that run at once), got ",
                                                   request.num_sequences));
  }
  return absl::OkStatus();
}

void Scheduler::Add(Request request, TimeNs now) {
  const absl::Status admissible = CheckAdmissible(request);
  CHECK(admissible.ok()) << std::string(admissible.message());
  auto state = std::make_unique<RequestState>();
  state->ticket = ++stats_.num_requests;
  state->arrived = now;
  state->prompt_length = static_cast<int>(request.prompt.size());
  state->max_length = MaxLength(request, state->prompt_length, max_length_);
  state->num_live = request.num_sequences;
  state->forked = request.num_sequences == 1;
  state->sequences.resize(request.num_sequences);
  for (int i = 0; i < request.num_sequences; ++i) {
    Sequence& sequence = state->sequences[i];
    sequence.owner = state.get();
    sequence.index = i;
    sequence.state = i == 0 ? SequenceState::kWaiting : SequenceState::kForking;
    sequence.priority = request.priority;
    sequence.waiting_since = now;
    sequence.report.prompt_tokens = state->prompt_length;
    sequence.report.arrived = now;
  }
  state->sequences[0].tokens = std::move(request.prompt);
  state->request = std::move(request);

  const RequestId id = state->request.id;
  if (state->request.deadline != kNoDeadline) deadlines_.emplace(state->request.deadline, id);
  stats_.waiting_prompt_tokens += state->prompt_length;
  waiting_.Insert(&state->sequences[0]);
  CHECK(requests_.emplace(id, std::move(state)).second) << "request " << id << " exists already";
}

RequestState* Scheduler::FindRequest(RequestId id) const {
  const auto found = requests_.find(id);
  if (found == requests_.end() || found->second->num_live == 0) return nullptr;
  return found->second.get();
}

Sequence* Scheduler::FindSequence(RequestId id, int index) const {
  RequestState* const request = FindRequest(id);
  if (request == nullptr || index < 0 || index >= request->request.num_sequences) return nullptr;
  Sequence* const sequence = &request->sequences[index];
  const bool has_ended =
      sequence->state == SequenceState::kRetiring || sequence->state == SequenceState::kFinished;
  return has_ended ? nullptr : sequence;
}

bool Scheduler::Cancel(RequestId id, FinishReason reason, TimeNs now,
                       std::vector<TokenEvent>* events) {
  RequestState* const request = FindRequest(id);
  if (request == nullptr) return false;
  EndAll(request, reason, now, events);
  ForgetEnded();
  return true;
}

bool Scheduler::Finish(RequestId id, int index, FinishReason reason, TimeNs now,
                       std::vector<TokenEvent>* events) {
  Sequence* const sequence = FindSequence(id, index);
  if (sequence == nullptr || sequence->report.completion_tokens == 0) return false;
  TokenEvent event;
  event.finish = reason;
  End(sequence, std::move(event), now, events);
  ForgetEnded();
  return true;
}

void Scheduler::EndAll(RequestState* request, FinishReason reason, TimeNs now,
                       std::vector<TokenEvent>* events) {
  for (Sequence& sequence : request->sequences) {
    if (FindSequence(request->request.id, sequence.index) == nullptr) continue;
    TokenEvent event;
    event.finish = reason;
    End(&sequence, std::move(event), now, events);
  }
}

// Pages that steps in flight write are freed when the last of these is committed.
void Scheduler::End(Sequence* sequence, TokenEvent event, TimeNs now,
                    std::vector<TokenEvent>* events) {
  CHECK(event.finish != FinishReason::kNone);
  if (event.finish == FinishReason::kNonFinite) sequence->is_faulty = true;
  RequestState* const owner = sequence->owner;
  sequence->report.finished = now;
  event.request = owner->request.id;
  event.index = sequence->index;
  event.at = now;
  event.report = sequence->report;
  events->push_back(std::move(event));

  const bool is_in_flight = sequence->num_in_flight > 0;
  if (sequence->state == SequenceState::kWaiting) {
    waiting_.Remove(sequence);
    if (!owner->started) stats_.waiting_prompt_tokens -= owner->prompt_length;
    if (owner->started) --stats_.num_preempted_sequences;
  } else if (sequence->state == SequenceState::kForking) {
    ReleaseSlots(sequence);
  } else if (!is_in_flight) {
    Free(sequence);
  }
  const bool retires = sequence->state == SequenceState::kRunning && is_in_flight;
  sequence->state = retires ? SequenceState::kRetiring : SequenceState::kFinished;
  if (sequence->parked) --stats_.num_parked_sequences;
  sequence->parked = false;
  if (--owner->num_live > 0) return;
  deadlines_.erase({owner->request.deadline, owner->request.id});
  ended_.push_back(owner);
}

// Gives back the pages and the slot, of an unforked request all its slots. What the sequence
// computed stays known to the prefix cache until its pages are needed.
void Scheduler::Free(Sequence* sequence) {
  const std::span<const TokenId> stored(sequence->tokens.data(), sequence->committed);
  const bool publish_tail = options_.prefix_cache && !sequence->is_faulty;
  cache_.Release(sequence->owner->request.cache_salt, stored, publish_tail, &sequence->pages);
  sequence->num_published = 0;
  ReleaseSlots(sequence);
}

void Scheduler::ReleaseSlots(Sequence* sequence) {
  RequestState* const owner = sequence->owner;
  const bool for_all = !owner->forked && sequence->index == 0;
  for (Sequence& other : owner->sequences) {
    if (&other != sequence && !for_all) continue;
    if (other.slot >= 0) free_slots_.push_back(other.slot);
    other.slot = -1;
  }
}

void Scheduler::InsertRunning(Sequence* sequence) {
  sequence->state = SequenceState::kRunning;
  const auto place =
      std::upper_bound(running_.begin(), running_.end(), sequence,
                       [](const Sequence* a, const Sequence* b) { return Rank(*a) < Rank(*b); });
  running_.insert(place, sequence);
}

void Scheduler::DropDeparted() {
  std::erase_if(running_, [](const Sequence* sequence) {
    return sequence->state != SequenceState::kRunning;
  });
}

// Plans in flight refer to sequences that retire, and to nothing else that has ended.
void Scheduler::ForgetEnded() {
  DropDeparted();
  std::erase_if(ended_, [this](const RequestState* request) {
    const bool is_referred_to =
        std::ranges::count(request->sequences, SequenceState::kRetiring, &Sequence::state) > 0;
    if (!is_referred_to) requests_.erase(request->request.id);
    return !is_referred_to;
  });
}

void Scheduler::Park(RequestId id, int index) {
  Sequence* const sequence = FindSequence(id, index);
  if (sequence == nullptr || sequence->parked) return;
  sequence->parked = true;
  ++stats_.num_parked_sequences;
}

void Scheduler::Resume(RequestId id, int index) {
  Sequence* const sequence = FindSequence(id, index);
  if (sequence == nullptr || !sequence->parked) return;
  sequence->parked = false;
  --stats_.num_parked_sequences;
}

bool Scheduler::HasWork() const {
  const auto is_ready = [](const Sequence* s) {
    return s->state == SequenceState::kRunning && !s->parked;
  };
  return std::ranges::any_of(running_, is_ready) || waiting_.Next(step_ + 1) != nullptr;
}

TimeNs Scheduler::NextDeadline() const {
  return deadlines_.empty() ? kNoDeadline : deadlines_.begin()->first;
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.num_waiting_requests = waiting_.size() - stats.num_preempted_sequences;
  stats.num_running_sequences = static_cast<int>(running_.size());
  stats.num_pages = cache_.num_pages();
  stats.num_pages_used = cache_.num_pages() - cache_.num_free();
  stats.num_pages_cached = cache_.num_cached();
  return stats;
}

}  // namespace tessera
