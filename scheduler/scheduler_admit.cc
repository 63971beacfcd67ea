#include <algorithm>

#include "base/check.h"
#include "base/philox.h"
#include "scheduler/scheduler.h"

namespace tessera {
namespace {

// Candidates a step looks past: those that do not fit, and those that wait for a prefix. Each costs
// a look at all of its prompt.
constexpr int kMaxBlocked = 12;
constexpr int kMaxWaitingForPrefix = 64;

// Tokens whose keys and values may come from the cache: not the last, whose row chooses the next
// token, nor any whose row is wanted for the prompt's logprobs.
int NumReusable(const Sequence& sequence) {
  const int num_reusable = static_cast<int>(sequence.tokens.size()) - 1;
  const RequestState& owner = *sequence.owner;
  const bool scores = sequence.index == 0 && owner.num_scored < owner.num_rows_to_score();
  return scores ? std::min(num_reusable, owner.num_scored) : num_reusable;
}

}  // namespace

void Scheduler::AdmitWaiting() {
  blocked_.clear();
  admission_stopped_by_ = WaitReason::kNone;
  if (pages_ran_out_) {  // whoever starts now would take the pages just given back
    admission_stopped_by_ = WaitReason::kPages;
    return;
  }
  while (true) {
    const Candidate candidate = NextCandidate();
    if (candidate.sequence == nullptr) return;
    if (!MayPassBlocked(*candidate.sequence)) return;
    const WaitReason reason = rows_left() == 0 ? WaitReason::kTokenBudget : TryAdmit(candidate);
    if (reason == WaitReason::kNone) continue;
    candidate.sequence->wait_reason = reason;
    candidate.sequence->skipped_in_step = step_;
    blocked_.push_back(candidate.sequence);
    if (reason == WaitReason::kSharedPrefix) continue;
    admission_stopped_by_ = reason;
    if (free_slots_.empty() || rows_left() == 0) return;
  }
}

// Nobody passes a blocked sequence more than max_bypasses times, nor is a tenant that is blocked
// left far behind in service: the bound between backlogged tenants would not hold.
bool Scheduler::MayPassBlocked(const Sequence& candidate) {
  int num_blocked = 0;
  const int64_t most_service = ledger_.service(candidate.owner->request.tenant) -
                               TenantLedger::kOutputTokenCost * max_length_;
  for (const Sequence* const blocked : blocked_) {
    if (blocked->wait_reason != WaitReason::kSharedPrefix) {
      if (++num_blocked == kMaxBlocked) return false;
      if (blocked->num_bypassed >= options_.max_bypasses) return false;
    }
    if (ledger_.service(blocked->owner->request.tenant) >= most_service) continue;
    admission_stopped_by_ = WaitReason::kFairness;
    return false;
  }
  return blocked_.size() < kMaxWaitingForPrefix;
}

// In the queue's order, except that one admission in overdue_share goes to a sequence that has
// waited too long behind more urgent ones, while there is one.
Scheduler::Candidate Scheduler::NextCandidate() const {
  Candidate candidate;
  candidate.sequence = waiting_.Next(step_);
  if (candidate.sequence == nullptr) return candidate;
  candidate.priority = candidate.sequence->priority;
  Sequence* const overdue =
      waiting_.Overdue(step_, candidate.priority, now_ - options_.overdue_after);
  if (overdue == nullptr) return candidate;
  candidate.passes_overdue = num_admitted_past_overdue_ + 1 < options_.overdue_share;
  candidate.is_overdue = !candidate.passes_overdue;
  if (candidate.is_overdue) candidate.sequence = overdue;
  return candidate;
}

WaitReason Scheduler::TryAdmit(const Candidate& candidate) {
  const Sequence& sequence = *candidate.sequence;
  const int num_slots = sequence.num_slots();
  if (num_slots > static_cast<int>(free_slots_.size())) return WaitReason::kSlots;
  if (num_slots > limits_.max_samples - plan_->num_samples) return WaitReason::kTokenBudget;
  MatchPrefix(sequence);
  if (WaitsForSharedPrefix(sequence)) return WaitReason::kSharedPrefix;
  if (!FitsPages(sequence, cache_.num_free(), NumPagesToGrow())) return WaitReason::kPages;
  if (StaysPartial(sequence) && num_partial_ >= options_.max_partial_prefills) {
    return WaitReason::kTokenBudget;
  }
  Start(candidate);
  return WaitReason::kNone;
}

bool Scheduler::StaysPartial(const Sequence& sequence) const {
  const int num_rows = static_cast<int>(sequence.tokens.size()) - match_.num_tokens;
  return num_rows > std::min(ChunkLimit(num_rows), rows_left());
}

void Scheduler::MatchPrefix(const Sequence& sequence) {
  const int num_reusable = options_.prefix_cache ? NumReusable(sequence) : 0;
  cache_.Match(sequence.owner->request.cache_salt, std::span(sequence.tokens).first(num_reusable),
               &match_);
}

// Two sequences that need the same prefix: the second lets the first compute it, unless it could do
// so sooner itself.
bool Scheduler::WaitsForSharedPrefix(const Sequence& waiting) const {
  if (!options_.prefix_cache) return false;
  const std::span<const TokenId> tokens(waiting.tokens.data(), NumReusable(waiting));
  for (const Sequence* const running : running_) {
    if (running->parked || running->committed + 1 >= static_cast<int>(running->tokens.size())) {
      continue;
    }
    if (running->owner->request.cache_salt != waiting.owner->request.cache_salt) continue;
    if (IsWorthWaitingFor(*running, tokens)) return true;
  }
  return false;
}

bool Scheduler::IsWorthWaitingFor(const Sequence& running, std::span<const TokenId> tokens) const {
  const auto end = std::ranges::mismatch(running.tokens, tokens).in2;
  const int num_equal = static_cast<int>(end - tokens.begin());
  const int num_shared = num_equal / limits_.page_tokens * limits_.page_tokens;
  const int num_saved = num_shared - match_.num_tokens;
  return num_saved > 0 && num_shared - running.scheduled <= num_saved;
}

// Room for all it has, not only for its first rows, and beside others for one more page each: a
// sequence that starts into a full pool is soon preempted and computed again.
bool Scheduler::FitsPages(const Sequence& sequence, int num_free, int num_to_grow) {
  const int num_tokens = static_cast<int>(sequence.tokens.size());
  const int num_needed =
      cache_.PagesFor(num_tokens) - static_cast<int>(match_.pages.size()) + num_to_grow;
  const int num_available = num_free - match_.num_free_among;
  if (num_needed > num_available) return false;
  const bool takes_source =
      match_.copy_source != kNoPage && cache_.pool().is_free(match_.copy_source);
  if (takes_source && num_needed == num_available) {
    match_.num_tokens -= match_.num_copied_tokens;
    match_.copy_source = kNoPage;
  }
  return true;
}

int Scheduler::NumPagesToGrow(const Sequence& sequence) const {
  const int num_most = cache_.PagesFor(sequence.owner->max_length);
  return num_most > static_cast<int>(sequence.pages.size()) ? sequence.num_slots() : 0;
}

int Scheduler::NumPagesToGrow() const {
  int num_pages = 0;
  for (const Sequence* const running : running_) {
    if (!running->parked) num_pages += NumPagesToGrow(*running);
  }
  return num_pages;
}

void Scheduler::Start(const Candidate& candidate) {
  Sequence* const sequence = candidate.sequence;
  for (Sequence* const passed : blocked_) {
    if (passed->wait_reason != WaitReason::kSharedPrefix) ++passed->num_bypassed;
  }
  if (candidate.passes_overdue) ++num_admitted_past_overdue_;
  if (candidate.is_overdue) num_admitted_past_overdue_ = 0;
  waiting_.Remove(sequence);
  sequence->priority = candidate.priority;
  sequence->wait_reason = WaitReason::kNone;
  TakeSlots(sequence);
  TakePages(sequence);
  AccountStart(sequence);
  InsertRunning(sequence);
  PlanRows(sequence, ChunkLimit(sequence->num_lacking()));
  CHECK_EQ(sequence->planned_in_step, step_) << "a sequence starts without a row";
  if (sequence->num_lacking() > 0) ++num_partial_;
}

void Scheduler::TakeSlots(Sequence* sequence) {
  RequestState* const owner = sequence->owner;
  for (Sequence& other : owner->sequences) {
    if (&other != sequence && !(sequence->index == 0 && !owner->forked)) continue;
    other.slot = free_slots_.back();
    free_slots_.pop_back();
    if (other.tokens.empty()) other.tokens = sequence->tokens;
    other.sampling = owner->request.sampling;
    other.sampling.seed = ForkSeed(owner->request.sampling.seed, other.index);
    other.tokens.reserve(owner->max_length);
    other.pages.reserve(cache_.PagesFor(owner->max_length));
    plan_->slot_starts.push_back(&other);
  }
}

void Scheduler::TakePages(Sequence* sequence) {
  cache_.Hold(match_, &sequence->pages);
  sequence->committed = sequence->scheduled = match_.num_tokens;
  sequence->num_published = static_cast<int>(match_.pages.size());
  if (match_.copy_source != kNoPage) {
    cache_.PinCopySource(match_.copy_source);
    cache_.Extend(&sequence->pages);
    plan_->page_copies.push_back(
        {match_.copy_source, sequence->pages.back(), match_.num_copied_tokens});
  }
  const size_t num_pages = cache_.PagesFor(static_cast<int>(sequence->tokens.size()));
  while (sequence->pages.size() < num_pages) cache_.Extend(&sequence->pages);
}

// A prompt is charged and counted once; computing it again is on the house.
void Scheduler::AccountStart(Sequence* sequence) {
  RequestState* const owner = sequence->owner;
  if (owner->started) {
    const int num_again = std::max(0, sequence->num_recompute - match_.num_tokens);
    sequence->report.recomputed_tokens += num_again;
    stats_.recomputed_tokens += num_again;
    --stats_.num_preempted_sequences;
    return;
  }
  owner->started = true;
  for (Sequence& other : owner->sequences) {
    other.report.first_scheduled = now_;
    other.report.cached_tokens = match_.num_tokens;
  }
  ledger_.ChargePrompt(owner->request.tenant, owner->prompt_length - match_.num_tokens);
  stats_.waiting_prompt_tokens -= owner->prompt_length;
  stats_.prompt_tokens += owner->prompt_length;
  if (!options_.prefix_cache) return;
  stats_.prefix_queried_tokens += owner->prompt_length;
  stats_.prefix_hit_tokens += match_.num_tokens;
}

}  // namespace tessera
