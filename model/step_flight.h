#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "model/executor.h"
#include "model/kv_cache.h"

namespace tessera {

// Logprobs beside the chosen token's that a sampled row may ask for.
inline constexpr int kMaxLogprobs = 20;

// One step from its launch until it was waited for: a copy of what its calls and its results need
// of the input, and where the backend puts what comes back. Sized once, for the largest step; its
// copies stay where they are. Used by the runner's thread.
class StepFlight {
 public:
  explicit StepFlight(const ExecutorLimits& limits);
  StepFlight(StepFlight&&) = default;

  // Forgets the step before.
  void Take(const StepInput& input, const KvCache& cache);

  const SequenceBatch& batch() const { return batch_; }
  // The same with pages as each layer of the cache counts them.
  const SequenceBatch& layer_batch() const { return layer_batch_; }
  std::span<const PageCopy> page_copies() const { return page_copies_; }
  // Without the tokens banned.
  std::span<const SampleRequest> samples() const { return samples_; }
  // The row and the sequence of each sample.
  std::span<const int32_t> sampled_rows() const { return sampled_rows_; }
  std::span<const int32_t> sampled_sequences() const { return sampled_sequences_; }

  // [num_rows], for Llama::Forward.
  std::span<uint8_t> row_faults() {
    return std::span(row_faults_).first(static_cast<size_t>(batch_.num_rows()));
  }
  // Of each sample, with room for its logprobs.
  std::span<SampleResult> results() { return std::span(results_).first(samples_.size()); }

 private:
  void FindSequences(const StepInput& input);

  std::vector<int32_t> query_starts_;
  std::vector<int32_t> kv_lengths_;
  std::vector<int32_t> page_starts_;
  std::vector<PageId> page_ids_;
  std::vector<PageId> layer_page_ids_;
  SequenceBatch batch_;  // of these
  SequenceBatch layer_batch_;
  std::vector<PageCopy> page_copies_;
  std::vector<SampleRequest> samples_;
  std::vector<int32_t> sampled_rows_;
  std::vector<int32_t> sampled_sequences_;
  std::vector<uint8_t> row_faults_;     // [max_batch_tokens]
  std::vector<SampleResult> results_;   // [max_samples]
  std::vector<TokenLogprob> logprobs_;  // [max_samples, kMaxLogprobs + 1]
};

}  // namespace tessera
