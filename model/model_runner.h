#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/config.h"
#include "model/executor.h"
#include "model/gguf.h"
#include "model/kv_cache.h"
#include "model/llama.h"
#include "model/slot_table.h"

namespace tessera {

// Raised by every change that may change a bit of any result (docs/numerics.md).
inline constexpr int kNumericsVersion = 1;

// Logprobs beside the chosen token's that a sampled row may ask for.
inline constexpr int kMaxLogprobs = 20;

struct ModelRunnerOptions {
  int max_batch_tokens = 512;
  int max_running = 256;
  int max_context = 0;  // 0: the model's
  int num_pages = 0;    // 0: what max_running contexts can use, within the memory for pages
  // What a device has left for pages, asked once the weights are there. Null: pages are in the
  // machine's memory, and by default take half of what is free, at most 4 GiB.
  std::function<uint64_t()> device_bytes_for_pages = nullptr;
};

// Runs the scheduler's steps on one backend: weights, KV cache, activations and what the slots
// hold. A step is computed inside Launch. Once loaded it allocates nothing, save for what a
// SlotStart with penalties needs. Used by one thread.
class ModelRunner final : public Executor {
 public:
  // Reads configuration and weights; the file is not needed afterwards.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Load(const GgufFile& file,
                                                           std::unique_ptr<Backend> backend,
                                                           const ModelRunnerOptions& options);

  ExecutorLimits limits() const override { return limits_; }
  StepTicket Launch(const StepInput& input) override;
  StepResult Wait(StepTicket ticket) override;

  const ModelConfig& config() const { return config_; }
  // Two servers with equal fingerprints give equal bytes for equal requests, e.g.
  // "n1-cpu-kvf16-0123456789abcdef0123456789abcdef"; a device's class names its type itself.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  ModelRunner(std::unique_ptr<Backend> backend, const ModelConfig& config,
              const ExecutorLimits& limits, ModelWeights weights, KvCache cache);

  void CheckInput(const StepInput& input) const;
  void SelectRows(const StepInput& input);
  void SampleChunk(const StepInput& input, const SequenceBatch& batch, int first, int count);
  int NumSampledTogether(std::span<const SampleRequest> samples) const;
  void SampleRows(const StepInput& input, const SequenceBatch& batch, float* logits, int first,
                  int count);
  bool IsRejected(const SampleRequest& request, int index) const;
  SampleRow MakeSampleRow(const SampleRequest& request) const;
  void StoreResult(const SampleRequest& request, bool is_faulty, const SampleResult& result,
                   int index);

  const std::unique_ptr<Backend> backend_;  // dies last: the members below hold its memory
  const ModelConfig config_;
  const ExecutorLimits limits_;
  const std::string fingerprint_;
  KvCache cache_;
  Llama llama_;
  SlotTable slots_;

  // One step's samples, sized for limits_.max_samples.
  std::vector<int32_t> selected_rows_;
  std::vector<int32_t> selected_sequences_;  // the sequence of each selected row
  std::vector<SampleRow> sample_rows_;       // of one chunk
  std::vector<SampleResult> sample_results_;
  std::vector<TokenLogprob> chunk_logprobs_;  // [kLogitsRows, kMaxLogprobs + 1]
  std::vector<SampledToken> sampled_;
  std::vector<ScoredToken> logprobs_;  // [max_samples, kMaxLogprobs + 1]
  size_t num_sampled_ = 0;             // of the last step
  StepTicket last_ticket_ = 0;
};

}  // namespace tessera
