#include "model/step_flight.h"

#include "base/check.h"

namespace tessera {
namespace {

constexpr size_t kLogprobsPerRow = kMaxLogprobs + 1;

template <typename T>
void Assign(std::span<const T> from, std::vector<T>* to) {
  to->assign(from.begin(), from.end());
}

}  // namespace

StepFlight::StepFlight(const ExecutorLimits& limits)
    : row_faults_(static_cast<size_t>(limits.max_batch_tokens)),
      results_(static_cast<size_t>(limits.max_samples)),
      logprobs_(results_.size() * kLogprobsPerRow) {
  const auto max_sequences = static_cast<size_t>(limits.max_running);
  query_starts_.reserve(max_sequences + 1);
  kv_lengths_.reserve(max_sequences);
  page_starts_.reserve(max_sequences + 1);
  page_ids_.reserve(static_cast<size_t>(limits.num_pages) + max_sequences);
  layer_page_ids_.reserve(page_ids_.capacity());
  page_copies_.reserve(max_sequences);
  samples_.reserve(results_.size());
  sampled_rows_.reserve(results_.size());
  sampled_sequences_.reserve(results_.size());
}

void StepFlight::Take(const StepInput& input, const KvCache& cache) {
  Assign(input.query_starts, &query_starts_);
  Assign(input.kv_lengths, &kv_lengths_);
  Assign(input.page_starts, &page_starts_);
  Assign(input.page_ids, &page_ids_);
  batch_ = {.query_starts = query_starts_,
            .kv_lengths = kv_lengths_,
            .page_starts = page_starts_,
            .page_ids = page_ids_};
  layer_page_ids_.clear();
  for (const PageId page : input.page_ids) layer_page_ids_.push_back(cache.IndexInLayer(page));
  layer_batch_ = batch_;
  layer_batch_.page_ids = layer_page_ids_;
  Assign(input.page_copies, &page_copies_);
  Assign(input.samples, &samples_);
  for (size_t i = 0; i < samples_.size(); ++i) {
    samples_[i].banned = {};
    results_[i] = {.logprobs = std::span(logprobs_).subspan(i * kLogprobsPerRow, kLogprobsPerRow)};
  }
  FindSequences(input);
}

// Samples come in row order, so that one walk finds each one's sequence.
void StepFlight::FindSequences(const StepInput& input) {
  sampled_rows_.clear();
  sampled_sequences_.clear();
  int32_t sequence = 0;
  for (const SampleRequest& request : input.samples) {
    CHECK(request.row >= input.query_starts[sequence] && request.row < input.query_starts.back())
        << "row " << request.row << " is out of order or outside the step";
    while (request.row >= input.query_starts[sequence + 1]) ++sequence;
    sampled_rows_.push_back(request.row);
    sampled_sequences_.push_back(sequence);
  }
}

}  // namespace tessera
