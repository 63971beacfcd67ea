#include "kernels/cpu/cpu_backend.h"

#include <cstdlib>
#include <cstring>

#include "kernels/cpu/cpu_weight.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/zeroed_memory.h"

namespace tessera {
namespace {

// Buffers from here on come from the system: a large KV cache costs memory only as it fills.
// Smaller ones keep the allocator's overflow checks under AddressSanitizer.
constexpr size_t kMinMappedBytes = 2 * kHugePageBytes;

}  // namespace

CpuBackend::CpuBackend(const CpuBackendOptions& options)
    : isa_(ResolveIsa(options.isa)),
      pool_(options.num_threads),
      linear_(&pool_, isa_),
      rope_store_kv_(&pool_, isa_),
      attention_(&pool_, isa_),
      row_ops_(&pool_, isa_),
      sampler_(&pool_, isa_) {}

std::string_view CpuBackend::name() const {
  switch (isa_) {
    case CpuIsa::kAvx2:
      return "cpu-avx2";
    case CpuIsa::kAvx512:
      return "cpu-avx512";
    case CpuIsa::kAvx512Vnni:
      return "cpu-avx512vnni";
    case CpuIsa::kAmx:
      return "cpu-amx";
    case CpuIsa::kPortable:
    case CpuIsa::kAuto:
      break;
  }
  return "cpu-portable";
}

DeviceBuffer CpuBackend::Allocate(size_t size_bytes) {
  if (size_bytes == 0) return {};
  void* data = size_bytes >= kMinMappedBytes ? MapHugePages(size_bytes) : AllocateZeros(size_bytes);
  return DeviceBuffer(this, data, size_bytes);
}

void CpuBackend::Free(void* data, size_t size_bytes) {
  if (size_bytes >= kMinMappedBytes) {
    UnmapHugePages(data, size_bytes);
  } else {
    std::free(data);
  }
}

// Of an empty buffer either address may be null.
void CpuBackend::Upload(const void* host, size_t size_bytes, void* device) {
  if (size_bytes > 0) std::memcpy(device, host, size_bytes);
}

void CpuBackend::Download(const void* device, size_t size_bytes, void* host) {
  if (size_bytes > 0) std::memcpy(host, device, size_bytes);
}

void CpuBackend::Zero(void* device, size_t size_bytes) {
  if (size_bytes > 0) std::memset(device, 0, size_bytes);
}

std::unique_ptr<PackedWeight> CpuBackend::NewWeight(DType type, int64_t rows, int64_t cols) {
  return std::make_unique<CpuWeight>(type, rows, cols, &weights_);
}

void CpuBackend::PackRows(PackedWeight* weight, int64_t first_row, int64_t num_rows,
                          const std::byte* data) {
  static_cast<CpuWeight*>(weight)->PackRows(first_row, num_rows, data);
}

size_t CpuBackend::KvPageBytes(const KvSpec& spec) const { return CpuKvPageBytes(spec); }

void CpuBackend::Embed(const PackedWeight& table, std::span<const TokenId> tokens, float* out) {
  linear_.Embed(static_cast<const CpuWeight&>(table), tokens, out);
}

void CpuBackend::RmsNorm(const float* x, const float* weight, float epsilon, int64_t num_rows,
                         int64_t dim, void* out) {
  row_ops_.RmsNorm(x, weight, epsilon, num_rows, dim, static_cast<float*>(out));
}

void CpuBackend::AddRmsNorm(const void* x, const float* weight, float epsilon, int64_t num_rows,
                            int64_t dim, float* residual, void* out) {
  row_ops_.AddRmsNorm(static_cast<const float*>(x), weight, epsilon, num_rows, dim, residual,
                      static_cast<float*>(out));
}

void CpuBackend::Linear(const void* x, int64_t num_rows,
                        std::span<const PackedWeight* const> weights, void* out) {
  linear_.Run(static_cast<const float*>(x), num_rows, weights, static_cast<float*>(out));
}

void CpuBackend::Logits(const void* x, int64_t num_rows, const PackedWeight& weight, float* out) {
  const PackedWeight* const weights[] = {&weight};
  Linear(x, num_rows, weights, out);
}

void CpuBackend::RopeStoreKv(const RopeStoreKvParams& params) { rope_store_kv_.Run(params); }

void CpuBackend::Attention(const AttentionParams& params) { attention_.Run(params); }

void CpuBackend::SwiGlu(const void* gate_up, int64_t num_rows, int64_t dim, void* out) {
  row_ops_.SwiGlu(static_cast<const float*>(gate_up), num_rows, dim, static_cast<float*>(out));
}

void CpuBackend::GatherRows(const void* x, std::span<const int32_t> rows, size_t row_bytes,
                            void* out) {
  const auto* from = static_cast<const std::byte*>(x);
  auto* to = static_cast<std::byte*>(out);
  for (const int32_t row : rows) {
    std::memcpy(to, from + static_cast<size_t>(row) * row_bytes, row_bytes);
    to += row_bytes;
  }
}

void CpuBackend::CopyPage(const KvSpec& spec, std::byte* pages, int32_t from, int32_t to,
                          int num_tokens) {
  CpuCopyPage(spec, pages, from, to, num_tokens);
}

void CpuBackend::Sample(float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
                        std::span<SampleResult> results) {
  sampler_.Run(logits, vocab_size, rows, results);
}

std::unique_ptr<Backend> MakeCpuBackend(const CpuBackendOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace tessera
