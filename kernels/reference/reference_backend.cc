#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "base/check.h"
#include "kernels/backend.h"
#include "kernels/dequantize.h"
#include "kernels/reference/reference_attention.h"
#include "kernels/reference/reference_sampler.h"

namespace tessera {
namespace {

constexpr size_t kAlignment = 64;

// Rows as the file holds them.
class ReferenceWeight : public PackedWeight {
 public:
  ReferenceWeight(DType type, int64_t rows, int64_t cols)
      : PackedWeight(type, rows, cols), bytes_(static_cast<size_t>(rows) * RowBytes(type, cols)) {}

  size_t size_bytes() const override { return bytes_.size(); }
  std::byte* MutableRow(int64_t row) { return bytes_.data() + row * RowBytes(type(), cols()); }

  void Dequantize(int64_t row, float* out) const {
    DequantizeRow(type(), bytes_.data() + row * RowBytes(type(), cols()), cols(), out);
  }

 private:
  std::vector<std::byte> bytes_;
};

const ReferenceWeight& Cast(const PackedWeight& weight) {
  return static_cast<const ReferenceWeight&>(weight);
}

double Dot(const float* a, const float* b, int64_t size) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

class ReferenceBackend : public Backend {
 public:
  std::string_view name() const override { return "reference"; }

  DeviceBuffer Allocate(size_t size_bytes) override {
    if (size_bytes == 0) return {};
    const size_t rounded = (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* data = std::aligned_alloc(kAlignment, rounded);
    CHECK(data != nullptr) << "out of memory: " << size_bytes << " bytes";
    std::memset(data, 0, rounded);
    return DeviceBuffer(this, data, size_bytes);
  }

  void Synchronize() override {}
  size_t activation_bytes() const override { return sizeof(float); }
  void Upload(const void* host, size_t size_bytes, void* device) override {
    if (size_bytes > 0) std::memcpy(device, host, size_bytes);
  }
  void Download(const void* device, size_t size_bytes, void* host) override {
    if (size_bytes > 0) std::memcpy(host, device, size_bytes);
  }
  void Zero(void* device, size_t size_bytes) override {
    if (size_bytes > 0) std::memset(device, 0, size_bytes);
  }

  std::unique_ptr<PackedWeight> NewWeight(DType type, int64_t rows, int64_t cols) override {
    return std::make_unique<ReferenceWeight>(type, rows, cols);
  }

  void PackRows(PackedWeight* weight, int64_t first_row, int64_t num_rows,
                const std::byte* data) override {
    CHECK_LE(first_row + num_rows, weight->rows());
    std::memcpy(static_cast<ReferenceWeight*>(weight)->MutableRow(first_row), data,
                static_cast<size_t>(num_rows) * RowBytes(weight->type(), weight->cols()));
  }

  size_t KvPageBytes(const KvSpec& spec) const override { return ReferenceKvPageBytes(spec); }

  void BeginStep(const StepRows& /*step*/) override {}

  void Embed(const PackedWeight& table, std::span<const TokenId> tokens, float* out) override {
    for (const TokenId token : tokens) {
      CHECK(token >= 0 && token < table.rows()) << "token " << token;
      Cast(table).Dequantize(token, out);
      out += table.cols();
    }
  }

  void RmsNorm(const float* x, const float* weight, float epsilon, int64_t num_rows, int64_t dim,
               void* normed) override {
    auto* out = static_cast<float*>(normed);
    for (int64_t row = 0; row < num_rows; ++row, x += dim, out += dim) {
      const double mean_square = Dot(x, x, dim) / static_cast<double>(dim);
      const double scale = 1.0 / std::sqrt(mean_square + double{epsilon});
      for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<float>(x[i] * scale * weight[i]);
    }
  }

  void AddRmsNorm(const void* addend, const float* weight, float epsilon, int64_t num_rows,
                  int64_t dim, float* residual, void* out) override {
    const auto* x = static_cast<const float*>(addend);
    for (int64_t i = 0; i < num_rows * dim; ++i) residual[i] += x[i];
    RmsNorm(residual, weight, epsilon, num_rows, dim, out);
  }

  void Linear(const void* rows, int64_t num_rows, std::span<const PackedWeight* const> weights,
              void* products) override {
    const auto* x = static_cast<const float*>(rows);
    auto* out = static_cast<float*>(products);
    if (weights.empty()) return;
    const int64_t cols = weights[0]->cols();
    std::vector<float> weight_row(static_cast<size_t>(cols));
    for (int64_t row = 0; row < num_rows; ++row, x += cols) {
      for (const PackedWeight* weight : weights) {
        for (int64_t n = 0; n < weight->rows(); ++n) {
          Cast(*weight).Dequantize(n, weight_row.data());
          *out++ = static_cast<float>(Dot(x, weight_row.data(), cols));
        }
      }
    }
  }

  void Logits(const void* x, int64_t num_rows, const PackedWeight& weight, float* out) override {
    const PackedWeight* const weights[] = {&weight};
    Linear(x, num_rows, weights, out);
  }

  void RopeStoreKv(const RopeStoreKvParams& params) override { ReferenceRopeStoreKv(params); }
  void Attention(const AttentionParams& params) override { ReferenceAttention(params); }

  void SwiGlu(const void* gate_and_up, int64_t num_rows, int64_t dim, void* activated) override {
    const auto* gate_up = static_cast<const float*>(gate_and_up);
    auto* out = static_cast<float*>(activated);
    for (int64_t row = 0; row < num_rows; ++row, gate_up += 2 * dim, out += dim) {
      for (int64_t i = 0; i < dim; ++i) {
        const double gate = gate_up[i];
        out[i] = static_cast<float>(gate / (1.0 + std::exp(-gate)) * gate_up[dim + i]);
      }
    }
  }

  void GatherRows(const void* x, std::span<const int32_t> rows, size_t row_bytes,
                  void* out) override {
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(static_cast<std::byte*>(out) + i * row_bytes,
                  static_cast<const std::byte*>(x) + static_cast<size_t>(rows[i]) * row_bytes,
                  row_bytes);
    }
  }

  void CopyPage(const KvSpec& spec, std::byte* pages, int32_t from, int32_t to,
                int num_tokens) override {
    ReferenceCopyPage(spec, pages, from, to, num_tokens);
  }

  void Sample(float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
              std::span<SampleResult> results) override {
    CHECK_EQ(rows.size(), results.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      const float* row_logits = logits + static_cast<int64_t>(i) * vocab_size;
      ReferenceSample({row_logits, static_cast<size_t>(vocab_size)}, rows[i], &results[i]);
    }
  }

 private:
  void Free(void* data, size_t) override { std::free(data); }
};

}  // namespace

std::unique_ptr<Backend> MakeReferenceBackend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace tessera
