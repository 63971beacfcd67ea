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
#include "model/step_flight.h"

namespace tessera {

// Raised by every change that may change a bit of any result (docs/numerics.md).
inline constexpr int kNumericsVersion = 1;

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
// hold. Launch enqueues a step's calls, and Wait waits for that step alone; on a backend that is
// done when a call returns the step is computed inside Launch, and the slots' counts are kept here.
// Once loaded it allocates nothing, save for what a SlotStart with penalties needs. Used by one
// thread.
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

  bool device_keeps_slots() const { return limits_.max_in_flight > 1; }
  StepFlight& FlightOf(StepTicket ticket) { return flights_[ticket % flights_.size()]; }

  // Launch.
  void CheckInput(const StepInput& input) const;
  bool IsToken(TokenId token) const;
  void StartSlot(const SlotStart& start);
  void SampleChunk(std::span<const SampleRequest> samples, int first, int count,
                   StepFlight* flight);
  int NumSampledTogether(std::span<const SampleRequest> samples) const;
  bool WaitsForDraft(const SampleRequest& request) const;
  void SampleRows(std::span<const SampleRequest> samples, float* logits, int first, int count,
                  StepFlight* flight);
  SampleRow MakeSampleRow(const SampleRequest& request) const;
  void CountOutputs(std::span<const SampleRequest> samples, int first, int count,
                    std::span<SampleResult> results);

  // Wait.
  void RecordFaults(StepFlight* flight);
  void StoreResult(const StepFlight& flight, const SampleResult& result, int index);
  bool IsRejected(const SampleRequest& request, int index) const;

  const std::unique_ptr<Backend> backend_;  // dies last: the members below hold its memory
  const ModelConfig config_;
  const ExecutorLimits limits_;
  const std::string fingerprint_;
  KvCache cache_;
  Llama llama_;
  SlotTable slots_;

  std::vector<SampleRow> sample_rows_;  // of one chunk
  std::vector<StepFlight> flights_;     // [limits_.max_in_flight], by ticket
  StepTicket launched_ = 0;             // the last one
  StepTicket awaited_ = 0;              // likewise

  // What Wait returned last, sized for limits_.max_samples.
  std::vector<SampledToken> sampled_;
  std::vector<ScoredToken> logprobs_;  // [max_samples, kMaxLogprobs + 1]
};

}  // namespace tessera
