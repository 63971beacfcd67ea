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
  const std::span<const TokenId> drafts(plan.drafts);
  for (const PlannedSequence& planned : plan.sequences) {
    AppendRows(planned, drafts.subspan(planned.first_draft, planned.num_drafts));
  }
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

void StepBuilder::AppendRows(const PlannedSequence& planned, std::span<const TokenId> drafts) {
  const Sequence& sequence = *planned.sequence;
  const int end = planned.first + planned.num_tokens;
  const int num_stored = planned.first + planned.num_rows();
  const int num_pages = (num_stored + limits_.page_tokens - 1) / limits_.page_tokens;
  const int32_t first_row = query_starts_.back();
  const int num_known = static_cast<int>(sequence.tokens.size());
  tokens_.insert(tokens_.end(), sequence.tokens.begin() + planned.first,
                 sequence.tokens.begin() + std::min(end, num_known));
  if (end > num_known) tokens_.push_back(LastTokenOf(sequence.slot));
  const int32_t last_row = static_cast<int32_t>(tokens_.size()) - 1;
  tokens_.insert(tokens_.end(), drafts.begin(), drafts.end());
  page_ids_.insert(page_ids_.end(), sequence.pages.begin(), sequence.pages.begin() + num_pages);
  query_starts_.push_back(static_cast<int32_t>(tokens_.size()));
  page_starts_.push_back(static_cast<int32_t>(page_ids_.size()));
  kv_lengths_.push_back(num_stored);
  AppendScores(planned, first_row);
  AppendSamples(planned, last_row);
  AppendDraftSamples(planned, drafts, last_row);
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
  for (int i = 0; i < planned.num_samples; ++i) {
    const int position = planned.first + planned.num_tokens;
    AppendSample(owner.sequences[planned.sequence->index + i], last_row, position);
  }
}

void StepBuilder::AppendDraftSamples(const PlannedSequence& planned,
                                     std::span<const TokenId> drafts, int32_t last_row) {
  int position = planned.first + planned.num_tokens;
  for (const TokenId draft : drafts) {
    AppendSample(*planned.sequence, ++last_row, ++position).draft = draft;
  }
}

// position: of the token to choose.
SampleRequest& StepBuilder::AppendSample(const Sequence& sequence, int32_t row, int position) {
  const Request& request = sequence.owner->request;
  const int num_outputs = position - sequence.owner->prompt_length;
  SampleRequest& sample = samples_.emplace_back();
  sample.row = row;
  sample.slot = sequence.slot;
  sample.position = position;
  if (num_outputs < request.min_tokens) sample.banned = request.banned_before_min;
  sample.wants_logprob = request.num_logprobs >= 0;
  sample.num_logprobs = static_cast<int16_t>(std::max(0, request.num_logprobs));
  return sample;
}

}  // namespace tessera
