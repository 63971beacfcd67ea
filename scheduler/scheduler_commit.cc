#include <algorithm>
#include <utility>

#include "base/check.h"
#include "scheduler/scheduler.h"

namespace tessera {
namespace {

constexpr float kHitRateStep = 0.125f;  // weight of the latest prediction

FinishReason ReasonToEnd(const Sequence& sequence) {
  const RequestState& owner = *sequence.owner;
  const bool may_stop = sequence.num_outputs() > owner.request.min_tokens;
  const auto& stops = owner.request.stop_tokens;
  if (may_stop && std::ranges::find(stops, sequence.tokens.back()) != stops.end()) {
    return FinishReason::kStopToken;
  }
  const bool is_full = static_cast<int>(sequence.tokens.size()) >= owner.max_length;
  return is_full ? FinishReason::kLength : FinishReason::kNone;
}

FinishReason ReasonToEnd(TokenStatus status) {
  if (status == TokenStatus::kNonFiniteLogits) return FinishReason::kNonFinite;
  return status == TokenStatus::kNoTokenLeft ? FinishReason::kNoTokenLeft : FinishReason::kNone;
}

bool IsNonFinite(const SampledToken& sample) {
  return sample.status == TokenStatus::kNonFiniteLogits;
}

void JudgePrediction(TokenId chosen, Sequence* sequence) {
  if (sequence->predicted < 0) return;
  const float hit = sequence->predicted == chosen ? 1.0f : 0.0f;
  sequence->hit_rate += (hit - sequence->hit_rate) * kHitRateStep;
  sequence->predicted = -1;
}

}  // namespace

void Scheduler::Commit(const StepResult& result, TimeNs now, std::vector<TokenEvent>* events) {
  CHECK_GT(num_in_flight_, 0) << "no step is in flight";
  const StepPlan& plan = plans_[first_in_flight_];
  CHECK_EQ(static_cast<int>(result.tokens.size()), plan.num_samples);
  first_in_flight_ = (first_in_flight_ + 1) % limits_.max_in_flight;
  --num_in_flight_;
  step_time_.Observe(plan.work(), now - std::max(plan.planned_at, committed_));
  committed_ = now;
  cache_.ReleaseCopySources(plan.page_copies.size());
  Samples samples = result.tokens;
  for (const PlannedSequence& planned : plan.sequences) {
    const size_t num_samples = planned.num_scored + planned.num_samples + planned.num_drafts;
    CommitSequence(plan, planned, samples.first(num_samples), now, events);
    samples = samples.subspan(num_samples);
  }
  ForgetEnded();
}

void Scheduler::CommitSequence(const StepPlan& plan, const PlannedSequence& planned,
                               Samples samples, TimeNs now, std::vector<TokenEvent>* events) {
  Sequence* const sequence = planned.sequence;
  const Samples scores = samples.first(planned.num_scored);
  const Samples choices = samples.subspan(planned.num_scored);
  Land(planned, samples.first(planned.num_scored + planned.num_samples));
  if (sequence->state != SequenceState::kRunning) return;
  if (std::ranges::any_of(scores, IsNonFinite)) {
    EndAll(sequence->owner, FinishReason::kNonFinite, now, events);
    return;
  }
  KeepPromptScores(planned, scores);
  if (choices.empty()) return;
  if (!sequence->owner->forked) Fork(sequence);
  if (planned.num_samples == 1) {
    const std::span<const TokenId> drafts(plan.drafts);
    AcceptChoices(planned, drafts.subspan(planned.first_draft, planned.num_drafts), choices, now,
                  events);
    return;
  }
  for (size_t i = 0; i < choices.size(); ++i) {
    AcceptSample(&sequence->owner->sequences[i], choices[i], now, events);
  }
}

// The rows have run. The last of a sequence that had ended meanwhile may have been of a token that
// nobody was told of.
void Scheduler::Land(const PlannedSequence& planned, Samples samples) {
  Sequence* const sequence = planned.sequence;
  --sequence->num_in_flight;
  if (sequence->owner->forked) sequence->num_pending -= planned.num_samples;
  sequence->committed =
      std::min(planned.first + planned.num_tokens, static_cast<int>(sequence->tokens.size()));
  if (std::ranges::any_of(samples, IsNonFinite)) sequence->is_faulty = true;
  if (!sequence->is_faulty) PublishPages(sequence);
  if (sequence->state != SequenceState::kRetiring || sequence->num_in_flight > 0) return;
  Free(sequence);
  sequence->scheduled = sequence->committed;
  sequence->state = SequenceState::kFinished;
}

// choices: of the last token's row, then of the drafts'. What a draft that was chosen stored is the
// sequence's own.
void Scheduler::AcceptChoices(const PlannedSequence& planned, std::span<const TokenId> drafts,
                              Samples choices, TimeNs now, std::vector<TokenEvent>* events) {
  Sequence* const sequence = planned.sequence;
  for (size_t i = 0; i <= drafts.size(); ++i) {
    const SampledToken& choice = choices[i];
    if (choice.status == TokenStatus::kRejected) return;
    if (i > 0) {
      sequence->committed = ++sequence->scheduled;
      ++stats_.accepted_draft_tokens;
      if (!IsNonFinite(choice)) PublishPages(sequence);
    }
    if (i < drafts.size()) sequence->predicted = drafts[i];
    JudgePrediction(choice.token, sequence);
    AcceptSample(sequence, choice, now, events);
    if (sequence->state != SequenceState::kRunning) return;
  }
}

void Scheduler::KeepPromptScores(const PlannedSequence& planned, Samples scores) {
  RequestState* const owner = planned.sequence->owner;
  for (const SampledToken& score : scores) {
    owner->prompt_logprobs.emplace_back(score.logprobs.begin(), score.logprobs.end());
  }
  owner->num_scored += planned.num_scored;
}

void Scheduler::PublishPages(Sequence* sequence) {
  if (!options_.prefix_cache) return;
  const std::span<const TokenId> tokens(sequence->tokens);
  const size_t page_tokens = limits_.page_tokens;
  const size_t num_full = sequence->committed / page_tokens;
  for (; static_cast<size_t>(sequence->num_published) < num_full; ++sequence->num_published) {
    const int index = sequence->num_published;
    cache_.Publish(sequence->owner->request.cache_salt, index,
                   tokens.subspan(index * page_tokens, page_tokens), &sequence->pages);
  }
}

// The others share all pages of the prompt. Whoever writes into the last, partly filled one first
// takes a copy of it; the last holder writes in place.
void Scheduler::Fork(Sequence* sequence) {
  RequestState* const owner = sequence->owner;
  owner->forked = true;
  for (Sequence& other : owner->sequences) {
    if (&other == sequence) continue;
    cache_.Share(sequence->pages, &other.pages);
    other.committed = other.scheduled = sequence->committed;
    other.num_published = sequence->num_published;
    InsertRunning(&other);
  }
}

void Scheduler::AcceptSample(Sequence* sequence, const SampledToken& sample, TimeNs now,
                             std::vector<TokenEvent>* events) {
  TokenEvent event;
  event.finish = ReasonToEnd(sample.status);
  if (event.finish == FinishReason::kNone) {
    SequenceReport& report = sequence->report;
    sequence->tokens.push_back(sample.token);
    if (report.completion_tokens++ == 0) report.first_token = now;
    ++stats_.generated_tokens;
    ledger_.ChargeOutput(sequence->owner->request.tenant, 1);
    event.token = sample.token;
    event.logprobs.assign(sample.logprobs.begin(), sample.logprobs.end());
    event.finish = ReasonToEnd(*sequence);
    if (event.finish == FinishReason::kStopToken) event.stop_token = sample.token;
    if (sequence->index == 0) event.prompt_logprobs = std::move(sequence->owner->prompt_logprobs);
  }
  if (event.finish != FinishReason::kNone) {
    End(sequence, std::move(event), now, events);
    return;
  }
  event.request = sequence->owner->request.id;
  event.index = sequence->index;
  event.at = now;
  events->push_back(std::move(event));
}

}  // namespace tessera
