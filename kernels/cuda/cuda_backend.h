#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kernels/backend.h"
#include "kernels/cuda/downloads.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/slot_memory.h"
#include "kernels/cuda/staging.h"
#include "kernels/cuda/step_attention.h"
#include "kernels/cuda/step_buffer.h"
#include "kernels/cuda/step_graphs.h"
#include "kernels/cuda/step_sampler.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// The ops of kernels/cuda on one stream. T (Bf16 or Fp16) is the type of activations, keys and
// values. What ops are given as tokens, batch and rows must be what BeginStep announced: they read
// the device's copy of it. Steps of sizes already seen twice allocate nothing.
//
// Two steps may be in flight. What the device keeps for itself is there once, since the stream
// orders its readers and writers; what the host writes or reads meanwhile is there twice (Flight,
// UploadBuffer).
template <typename T>
class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const DeviceProperties& device);
  ~CudaBackend() override;

  std::string_view name() const override { return name_; }

  DeviceBuffer Allocate(size_t size_bytes) override;
  void Synchronize() override;
  size_t activation_bytes() const override { return sizeof(T); }
  void Upload(const void* host, size_t size_bytes, void* device) override;
  void Download(const void* device, size_t size_bytes, void* host) override;
  void Zero(void* device, size_t size_bytes) override;

  std::unique_ptr<PackedWeight> NewWeight(DType type, int64_t rows, int64_t cols) override;
  void PackRows(PackedWeight* weight, int64_t first_row, int64_t num_rows,
                const std::byte* data) override;

  size_t KvPageBytes(const KvSpec& spec) const override;

  void BeginStep(const StepRows& step) override { Begin(step, {}); }
  void RunStep(const StepRows& step, const void* program,
               const std::function<void()>& calls) override;
  void Embed(const PackedWeight& table, std::span<const TokenId> tokens, float* out) override;
  void RmsNorm(const float* x, const float* weight, float epsilon, int64_t num_rows, int64_t dim,
               void* out) override;
  void AddRmsNorm(const void* x, const float* weight, float epsilon, int64_t num_rows, int64_t dim,
                  float* residual, void* out) override;
  void Linear(const void* x, int64_t num_rows, std::span<const PackedWeight* const> weights,
              void* out) override;
  void Logits(const void* x, int64_t num_rows, const PackedWeight& weight, float* out) override;
  void RopeStoreKv(const RopeStoreKvParams& params) override;
  void Attention(const AttentionParams& params) override;
  void SwiGlu(const void* gate_up, int64_t num_rows, int64_t dim, void* out) override;
  void GatherRows(const void* x, std::span<const int32_t> rows, size_t row_bytes,
                  void* out) override;
  void CopyPage(const KvSpec& spec, std::byte* pages, int32_t from, int32_t to,
                int num_tokens) override;
  int max_in_flight() const override { return kMaxInFlight; }
  void ReserveSlots(int num_slots, int max_seen) override;
  void StartSlot(int slot, std::span<const TokenCount> seen) override;
  void EndStep() override;
  void AwaitStep() override;
  // Results are there after Synchronize or AwaitStep.
  void Sample(float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
              std::span<SampleResult> results) override;

 private:
  static constexpr int kMaxInFlight = 2;

  // What a step stages and gets back, until it was waited for.
  struct Flight {
    explicit Flight(const Stream* stream) : staging(stream), downloads(stream) {}

    Staging staging;
    Downloads downloads;
    Event end;
  };

  // Of the step that is being enqueued.
  Flight& flight() { return flights_[num_ended_ % kMaxInFlight]; }
  static void Deliver(Flight* flight);

  void Free(void* data, size_t size_bytes) override;
  void Begin(const StepRows& step, const StepPadding& padding);
  // Of ops' kernels: n, or in calls that a graph repeats more.
  int NumRows(int64_t n) const;
  // For what a graph would repeat with the arguments of another step.
  void CheckIsNoCall() const;

  const DeviceProperties device_;
  const std::string name_;
  std::map<void*, DeviceMemory> allocations_;  // behind DeviceBuffers
  const Stream stream_;
  std::array<Flight, kMaxInFlight> flights_;
  uint64_t num_ended_ = 0;    // steps
  uint64_t num_awaited_ = 0;  // of these, waited for
  SlotMemory slots_;
  StepBuffer step_;
  StepAttention attention_;
  StepSampler sampler_;
  StepGraphs graphs_;
  int num_changes_ = 0;     // of the memory that graphs_ refers to
  bool pads_rows_ = false;  // inside RunStep's calls of a step that graphs serve
  uint64_t num_steps_ = 0;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
