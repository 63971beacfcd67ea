#include <algorithm>

#include "scheduler/scheduler.h"

// Speculation: a decoding sequence gets rows for guesses at its next tokens, and samples after each
// of them in the same step. A guess counts only where it is what the sample before it chose, so
// speculation changes when tokens come, never which.

namespace tessera {
namespace {

constexpr double kMargin = 1.1;  // that a guess must gain more than it costs, as far as predicted

}  // namespace

// Guesses get rows that nothing else wanted. Those without one are remembered all the same: whether
// they would have been right tells when to begin.
void Scheduler::PlanDrafts() {
  if (options_.max_draft_tokens == 0) return;
  const StepWork work = plan_->work();
  int num_decodes = 0;
  for (const PlannedSequence& planned : plan_->sequences) num_decodes += IsDecode(planned);
  for (PlannedSequence& planned : plan_->sequences) {
    if (IsDecode(planned)) Draft(work, num_decodes, &planned);
  }
}

bool Scheduler::IsDecode(const PlannedSequence& planned) {
  return planned.num_samples == 1 && planned.sequence->num_outputs() > 0;
}

void Scheduler::Draft(const StepWork& work, int num_decodes, PlannedSequence* planned) {
  Sequence* const sequence = planned->sequence;
  const std::span<const TokenId> tokens(sequence->tokens);
  const int continuation = sequence->ngrams.FindContinuation(tokens);
  sequence->predicted = continuation < 0 ? -1 : tokens[continuation];
  if (continuation < 0) return;
  planned->first_draft = static_cast<int>(plan_->drafts.size());
  planned->num_drafts = NumDrafts(*sequence, LeastChance(work, num_decodes, *sequence));
  const int period = static_cast<int>(tokens.size()) - continuation;
  for (int i = 0; i < planned->num_drafts; ++i) {
    plan_->drafts.push_back(tokens[continuation + i % period]);  // what repeats may go on repeating
  }
  plan_->num_tokens += planned->num_drafts;
  plan_->num_samples += planned->num_drafts;
  stats_.draft_tokens += planned->num_drafts;
}

// A row more makes the step longer, and so costs all its decodes a part of a token: less likely
// guesses do not pay. Above 1 where nothing is known.
float Scheduler::LeastChance(const StepWork& work, int num_decodes,
                             const Sequence& sequence) const {
  if (!step_time_.is_ready()) return 2.0f;
  StepWork more = work;
  more.AddRows(sequence.scheduled, 1);
  const double step_ns = static_cast<double>(step_time_.Predict(work));
  const double row_ns = static_cast<double>(step_time_.Predict(more)) - step_ns;
  return static_cast<float>(kMargin * row_ns * num_decodes / std::max(1.0, step_ns));
}

// Up to the end of the pages that the sequence has anyway, and of the sequence.
int Scheduler::NumDrafts(const Sequence& sequence, float least_chance) const {
  const int in_pages =
      static_cast<int>(sequence.pages.size()) * limits_.page_tokens - sequence.scheduled;
  const int in_sequence = sequence.owner->max_length - static_cast<int>(sequence.tokens.size()) - 1;
  const int most = std::min({options_.max_draft_tokens, in_pages, in_sequence, rows_left(),
                             limits_.max_samples - plan_->num_samples});
  int num_drafts = 0;
  float chance = sequence.hit_rate;
  for (; num_drafts < most && chance > least_chance; ++num_drafts) chance *= sequence.hit_rate;
  return num_drafts;
}

}  // namespace tessera
