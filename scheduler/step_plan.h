#pragma once

#include <vector>

#include "scheduler/sequence.h"
#include "scheduler/step_time_model.h"

namespace tessera {

// One sequence's share of a step: rows for tokens [first, first + num_tokens).
struct PlannedSequence {
  Sequence* sequence = nullptr;
  int first = 0;
  int num_tokens = 0;
  int first_scored = 0;  // position of the first row that scores a prompt token
  int num_scored = 0;    // rows from there on that do
  int num_samples = 0;   // sequences whose next token its last row chooses: 0, 1, or n at the fork
  int first_draft = 0;   // in the plan's drafts: guesses that follow, each with a row and a sample
  int num_drafts = 0;

  int num_rows() const { return num_tokens + num_drafts; }
};

// What one step runs, in batch order. Belongs to the Scheduler; valid until it is committed.
struct StepPlan {
  uint64_t step = 0;
  TimeNs planned_at = 0;
  std::vector<PlannedSequence> sequences;
  std::vector<Sequence*> slot_starts;  // sequences whose slot is new
  std::vector<PageCopy> page_copies;   // no page is both read and written by them
  std::vector<TokenId> drafts;
  int num_tokens = 0;          // rows, drafts included
  int num_prefill_tokens = 0;  // rows other than drafts and one per decoding sequence
  int num_samples = 0;         // sampled and scored rows, drafts included

  bool empty() const { return sequences.empty(); }
  StepWork work() const {
    StepWork work;
    for (const PlannedSequence& planned : sequences)
      work.AddRows(planned.first, planned.num_rows());
    return work;
  }
};

}  // namespace tessera
