#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "base/worker_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/rope_store_kv.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/sample.h"
#include "kernels/cpu/weight_arena.h"

namespace tessera {

// The ops of kernels/cpu on one worker pool. Calls return when their work is done.
class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const CpuBackendOptions& options);

  std::string_view name() const override;

  DeviceBuffer Allocate(size_t size_bytes) override;
  void Synchronize() override {}
  size_t activation_bytes() const override { return sizeof(float); }
  void Upload(const void* host, size_t size_bytes, void* device) override;
  void Download(const void* device, size_t size_bytes, void* host) override;
  void Zero(void* device, size_t size_bytes) override;

  std::unique_ptr<PackedWeight> NewWeight(DType type, int64_t rows, int64_t cols) override;
  void PackRows(PackedWeight* weight, int64_t first_row, int64_t num_rows,
                const std::byte* data) override;

  size_t KvPageBytes(const KvSpec& spec) const override;

  void BeginStep(const StepRows& /*step*/) override {}
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
  void Sample(float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
              std::span<SampleResult> results) override;

 private:
  void Free(void* data, size_t size_bytes) override;

  const CpuIsa isa_;
  WorkerPool pool_;
  WeightArena weights_;
  CpuLinear linear_;
  CpuRopeStoreKv rope_store_kv_;
  CpuAttention attention_;
  CpuRowOps row_ops_;
  CpuSampler sampler_;
};

}  // namespace tessera
