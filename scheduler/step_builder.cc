#include "scheduler/step_builder.h"

#include <algorithm>

namespace tessera {

StepBuilder::StepBuilder(const ExecutorLimits& limits) : limits_(limits) {
  tokens_.reserve(limits.max_batch_tokens);
  query_starts_.reserve(limits.max_running + size_t{1});
  kv_lengths_.reserve(limits.max_running);
  page_starts_.reserve(limits.max_running + size_t{1});
  page_ids_.reserve(limits.num_pages + static_cast<size_t>(limits.max_running));
  slot_starts_.reserve(limits.max_running);
  samples_.reserve(limits.max_samples);
}

const StepInput& StepBuilder::Build(const StepPlan& plan) {
  Clear();
  for (const Sequence* sequence : plan.slot_starts) AppendSlotStart(*sequence);
  for (const PlannedSequence& planned : plan.sequences) AppendRows(planned);
  input_.tokens = tokens_;
  input_.query_starts = query_starts_;
  input_.kv_lengths = kv_lengths_;
  input_.page_starts = page_starts_;
  input_.page_ids = page_ids_;
  input_.slot_starts = slot_starts_;
  input_.page_copies = plan.page_copies;
  input_.samples = samples_;
  return input_;
}

void StepBuilder::Clear() {
  tokens_.clear();
  query_starts_.assign(1, 0);
  kv_lengths_.clear();
  page_starts_.assign(1, 0);
  page_ids_.clear();
  slot_starts_.clear();
  samples_.clear();
}

void StepBuilder::AppendSlotStart(const Sequence& sequence) {
  slot_starts_.push_back(
      {sequence.slot, &sequence.sampling, sequence.tokens, sequence.owner->prompt_length});
}

void StepBuilder::AppendRows(const PlannedSequence& planned) {
  const Sequence& sequence = *planned.sequence;
  const int end = planned.first + planned.num_tokens;
  const int num_pages = (end + limits_.page_tokens - 1) / limits_.page_tokens;
  const int32_t first_row = query_starts_.back();
  tokens_.insert(tokens_.end(), sequence.tokens.begin() + planned.first,
                 sequence.tokens.begin() + end);
  page_ids_.insert(page_ids_.end(), sequence.pages.begin(), sequence.pages.begin() + num_pages);
  query_starts_.push_back(static_cast<int32_t>(tokens_.size()));
  page_starts_.push_back(static_cast<int32_t>(page_ids_.size()));
  kv_lengths_.push_back(end);
  AppendScores(planned, first_row);
  AppendSamples(planned, query_starts_.back() - 1);
}

void StepBuilder::AppendScores(const PlannedSequence& planned, int32_t first_row) {
  const Sequence& sequence = *planned.sequence;
  for (int i = 0; i < planned.num_scored; ++i) {
    const int position = planned.first_scored + i;
    SampleRequest& score = samples_.emplace_back();
    score.row = first_row + position - planned.first;
    score.slot = sequence.slot;
    score.position = position + 1;
    score.forced = sequence.tokens[position + 1];
    score.num_logprobs = static_cast<int16_t>(sequence.owner->request.num_prompt_logprobs);
    score.wants_logprob = true;
  }
}

void StepBuilder::AppendSamples(const PlannedSequence& planned, int32_t last_row) {
  const RequestState& owner = *planned.sequence->owner;
  const Request& request = owner.request;
  for (int i = 0; i < planned.num_samples; ++i) {
    const Sequence& sampler = owner.sequences[planned.sequence->index + i];
    SampleRequest& sample = samples_.emplace_back();
    sample.row = last_row;
    sample.slot = sampler.slot;
    sample.position = static_cast<int32_t>(planned.sequence->tokens.size());
    if (sampler.num_outputs() < request.min_tokens) sample.banned = request.banned_before_min;
    sample.wants_logprob = request.num_logprobs >= 0;
    sample.num_logprobs = static_cast<int16_t>(std::max(0, request.num_logprobs));
  }
}

}  // namespace tessera
