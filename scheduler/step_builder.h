#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/executor.h"
#include "scheduler/step_plan.h"

namespace tessera {

// Flattens a StepPlan into the arrays a step of the model reads. Keeps its buffers, so a steady
// state allocates nothing.
class StepBuilder {
 public:
  explicit StepBuilder(const ExecutorLimits& limits);

  // Valid until the next Build. The sample rows are in row order; where several sequences sample
  // from one row (a fork) they are in order of their index.
  const StepInput& Build(const StepPlan& plan);

 private:
  void Clear();
  void AppendSlotStart(const Sequence& sequence);
  void AppendRows(const PlannedSequence& planned, std::span<const TokenId> drafts);
  void AppendScores(const PlannedSequence& planned, int32_t first_row);
  void AppendSamples(const PlannedSequence& planned, int32_t last_row);
  void AppendDraftSamples(const PlannedSequence& planned, std::span<const TokenId> drafts,
                          int32_t last_row);
  SampleRequest& AppendSample(const Sequence& sequence, int32_t row, int position);

  const ExecutorLimits limits_;
  std::vector<TokenId> tokens_;
  std::vector<int32_t> query_starts_;
  std::vector<int32_t> kv_lengths_;
  std::vector<int32_t> page_starts_;
  std::vector<PageId> page_ids_;
  std::vector<SlotStart> slot_starts_;
  std::vector<SampleRequest> samples_;
  StepInput input_;
};

}  // namespace tessera
