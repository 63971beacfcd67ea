#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "base/sampling_params.h"
#include "kernels/dtype.h"

// What a model asks of a device. CPU and CUDA are both classes behind `Backend`, so that one
// process can hold several and one test body compares each with the reference.
//
// Activations (`void*`) are in the backend's own type: fp32 on the CPU, 16 bits on CUDA; the
// residual stream and the logits are fp32 everywhere. Shapes are row-major, the last dimension
// contiguous, strides count elements. "Row" is one token of one sequence. Every op obeys
// docs/numerics.md: what it writes for a row depends on that row alone, bit for bit, however many
// rows share the call.

namespace tessera {

class Backend;

// Device memory, freed when the buffer dies. Move-only. 64-byte aligned.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Backend* backend, void* data, size_t size_bytes)
      : backend_(backend), data_(data), size_bytes_(size_bytes) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : backend_(std::exchange(other.backend_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        size_bytes_(std::exchange(other.size_bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }
  ~DeviceBuffer();

  template <typename T>
  T* As() const {
    return static_cast<T*>(data_);
  }
  size_t size_bytes() const { return size_bytes_; }

 private:
  Backend* backend_ = nullptr;
  void* data_ = nullptr;
  size_t size_bytes_ = 0;
};

// A weight matrix [rows, cols] (out features, in features) in a backend's own layout.
class PackedWeight {
 public:
  PackedWeight(DType type, int64_t rows, int64_t cols) : type_(type), rows_(rows), cols_(cols) {}
  virtual ~PackedWeight() = default;

  DType type() const { return type_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  virtual size_t size_bytes() const = 0;

 private:
  DType type_;
  int64_t rows_;
  int64_t cols_;
};

inline constexpr int kPageTokens = 64;  // KV cache pages; also the attention tile's alignment

// The shape of one layer's keys and values. The layout inside a page is the backend's.
struct KvSpec {
  int num_kv_heads = 0;
  int head_dim = 0;
};

// The ragged batch of one step, the same for every layer. Sequence i owns rows
// [query_starts[i], query_starts[i + 1]), its newest tokens, and the pages
// page_ids[page_starts[i] .. page_starts[i + 1]); page j holds positions [64 j, 64 j + 64).
// kv_lengths[i] counts all its tokens, this step's included; its first row's position is
// kv_lengths[i] - (number of its rows).
//
// Three sequences: a 5-token prompt chunk at position 64, two decode rows at 9 and 130:
//   query_starts 0 5 6 7 | kv_lengths 69 10 131 | page_starts 0 2 3 6
struct SequenceBatch {
  std::span<const int32_t> query_starts;  // [num_sequences + 1]
  std::span<const int32_t> kv_lengths;    // [num_sequences]
  std::span<const int32_t> page_starts;   // [num_sequences + 1]
  std::span<const int32_t> page_ids;      // [page_starts.back()]

  int num_sequences() const { return static_cast<int>(kv_lengths.size()); }
  int num_rows() const { return query_starts.back(); }
};

// A device may compute rows that nobody asked for: activations of n rows that a step's calls
// (Backend::RunStep) are given have room for RowsWithPadding(n).
inline constexpr int kRowPadding = 64;
inline int64_t RowsWithPadding(int64_t n) {
  return (n + kRowPadding - 1) / kRowPadding * kRowPadding;
}

// The rows of one step.
struct StepRows {
  std::span<const TokenId> tokens;  // [batch->num_rows()]
  const SequenceBatch* batch = nullptr;
  std::span<const int32_t> selected;  // rows whose logits are wanted
};

// Rotates q in place, rotates k and appends k and v to their pages, rounded once.
struct RopeStoreKvParams {
  void* qkv = nullptr;  // [num_rows, (num_heads + 2 * num_kv_heads) * head_dim]: q, k, v
  int num_heads = 0;
  KvSpec spec;
  std::byte* pages = nullptr;  // one layer's pages, Backend::KvPageBytes(spec) apart
  const SequenceBatch* batch = nullptr;
  const float* rope_cos = nullptr;  // [max_positions, rope_dim / 2]; pair i is (i, i + rope_dim/2)
  const float* rope_sin = nullptr;  // same shape
  int rope_dim = 0;                 // <= head_dim; the rest of a head passes through
  uint8_t* row_faults = nullptr;    // [num_rows], set to 1 where a k or v was not finite
};

// Attention of a ragged batch over one layer's pages, which already hold this step's keys and
// values.
struct AttentionParams {
  const void* q = nullptr;  // row r's queries start at element r * q_stride; [num_heads, head_dim]
  int64_t q_stride = 0;
  void* out = nullptr;  // [num_rows, num_heads, head_dim]
  int num_heads = 0;    // a multiple of spec.num_kv_heads (GQA)
  KvSpec spec;
  const std::byte* pages = nullptr;
  const SequenceBatch* batch = nullptr;
  float scale = 0.0f;    // usually 1 / sqrt(head_dim)
  float softcap = 0.0f;  // s = softcap * tanh(s / softcap); 0: off
  int window = 0;        // a key is visible iff query position - key position < window; 0: off
  bool causal = true;    // false: every row sees all kv_lengths[i] keys
};

enum class SampleStatus : uint8_t {
  kOk,
  kNonFiniteLogits,  // the model's output is broken: the request ends with INTERNAL
  kNoTokenLeft,      // masks and biases left no token to choose
};

// A token that the sequence has seen, for penalties. Sorted by id.
struct TokenCount {
  TokenId token = 0;
  int32_t output_count = 0;  // 0: only in the prompt
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0.0f;
};

// One row of logits and how to choose from it. Pointers are host memory, valid during the call.
struct SampleRow {
  const SamplingParams* params = nullptr;
  int64_t position = 0;              // index of the token being chosen: counts the noise
  std::span<const TokenCount> seen;  // empty unless params->has_penalties(), and without a slot
  std::span<const TokenId> banned;   // masked out: before min_tokens, EOS and stop ids
  TokenId forced = -1;               // >= 0: choose this one (a prompt token to score)
  int num_logprobs = 0;              // top entries wanted besides the chosen token's
  bool wants_logprob = false;        // the chosen token's logprob, and the top ones
  // >= 0: penalties are for what was seen in the slot (StartSlot), of which the chosen token
  // becomes the last.
  int slot = -1;
  // >= 0, with a slot: the row's own token, a guess. No token is chosen unless it is the slot's
  // last one.
  TokenId draft = -1;
};

struct SampleResult {
  TokenId token = -1;
  SampleStatus status = SampleStatus::kOk;
  // Raw log-softmax, before penalties and temperature. [num_logprobs] in descending order, ties by
  // lower id; the chosen token comes last where it is not among them.
  std::span<TokenLogprob> logprobs;  // in: room for num_logprobs + 1; out: as many as were written
};

// One device, one stream. Calls enqueue work in order and may return before it ran; Synchronize
// waits. A device error aborts: no later call could succeed. Owned and called by one thread at a
// time.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;  // e.g. "cpu-avx512vnni"

  virtual DeviceBuffer Allocate(size_t size_bytes) = 0;  // zeroed
  virtual void Synchronize() = 0;

  virtual size_t activation_bytes() const = 0;  // of one element
  // Between host and device memory; host memory may be reused when the call returns, and what was
  // downloaded is there after Synchronize.
  virtual void Upload(const void* host, size_t size_bytes, void* device) = 0;
  virtual void Download(const void* device, size_t size_bytes, void* host) = 0;
  virtual void Zero(void* device, size_t size_bytes) = 0;

  // Weights, at load. PackRows takes `num_rows` rows in `type`'s file format, RowBytes(type, cols)
  // apart, to become rows [first_row, first_row + num_rows). Each row is packed once, in any order.
  virtual std::unique_ptr<PackedWeight> NewWeight(DType type, int64_t rows, int64_t cols) = 0;
  virtual void PackRows(PackedWeight* weight, int64_t first_row, int64_t num_rows,
                        const std::byte* data) = 0;

  virtual size_t KvPageBytes(const KvSpec& spec) const = 0;

  // Announces what the calls of the next step are given: spans and batch stay as they are until the
  // next BeginStep, so that a device can take them over in one copy.
  virtual void BeginStep(const StepRows& step) = 0;

  // BeginStep, then `calls`: Embed, norms, Linear, RopeStoreKv, Attention, SwiGlu and GatherRows,
  // no others. Or a device repeats what it was called for in an earlier step of the same `program`,
  // with as many rows and selected rows or a few more (CUDA graphs): so nothing but the step may
  // tell the calls of two steps of a program apart. `program` is any address that tells a model's
  // calls from others'; it is forgotten when some DeviceBuffer dies.
  virtual void RunStep(const StepRows& step, const void* program,
                       const std::function<void()>& calls) {
    static_cast<void>(program);
    BeginStep(step);
    calls();
  }

  // Steps in flight. A device that runs behind its caller may be given a step's calls, EndStep
  // among them, while up to max_in_flight() - 1 steps before have not been waited for. For that it
  // keeps in slots what a step needs of the one before: a slot's last token, which Embed reads
  // where a token is LastTokenOf it, and the tokens that penalties count. A backend that is done
  // when a call returns has 1 step in flight and no slots.
  virtual int max_in_flight() const { return 1; }
  // Once, before the first step. max_seen: different tokens that a slot may see.
  virtual void ReserveSlots(int /*num_slots*/, int /*max_seen*/) {}
  // What the slot's new sequence, which has penalties, has seen so far.
  virtual void StartSlot(int /*slot*/, std::span<const TokenCount> /*seen*/) {}
  virtual void EndStep() {}
  // Waits for the oldest step that has ended and was not waited for, and for no later one: what it
  // downloaded and sampled is there.
  virtual void AwaitStep() { Synchronize(); }

  // out[r] = table row tokens[r], dequantised. out: [tokens.size(), table.cols].
  virtual void Embed(const PackedWeight& table, std::span<const TokenId> tokens, float* out) = 0;

  // out[r] = x[r] / rms(x[r]) * weight. x, out: [num_rows, dim].
  virtual void RmsNorm(const float* x, const float* weight, float epsilon, int64_t num_rows,
                       int64_t dim, void* out) = 0;
  // residual += x, then out = RmsNorm(residual).
  virtual void AddRmsNorm(const void* x, const float* weight, float epsilon, int64_t num_rows,
                          int64_t dim, float* residual, void* out) = 0;

  // out[r] = the weights' products with x[r], side by side: [num_rows, sum of rows()]. All weights
  // have the same cols; types may differ.
  virtual void Linear(const void* x, int64_t num_rows, std::span<const PackedWeight* const> weights,
                      void* out) = 0;
  // The same of one weight, in fp32: [num_rows, weight.rows()].
  virtual void Logits(const void* x, int64_t num_rows, const PackedWeight& weight, float* out) = 0;

  virtual void RopeStoreKv(const RopeStoreKvParams& params) = 0;
  virtual void Attention(const AttentionParams& params) = 0;

  // out = silu(gate) * up. gate_up: [num_rows, 2 * dim], gate first. out: [num_rows, dim].
  virtual void SwiGlu(const void* gate_up, int64_t num_rows, int64_t dim, void* out) = 0;

  // out[i] = x[rows[i]], rows of `row_bytes`.
  virtual void GatherRows(const void* x, std::span<const int32_t> rows, size_t row_bytes,
                          void* out) = 0;

  // Copies the first num_tokens tokens of page `from` to page `to`, in one layer's pages.
  virtual void CopyPage(const KvSpec& spec, std::byte* pages, int32_t from, int32_t to,
                        int num_tokens) = 0;

  // Chooses a token from each row of logits [rows.size(), vocab_size], which it may overwrite.
  // results[i] belongs to rows[i], and stays where it is until the backend was waited for. A row
  // with a draft comes in a call after that of the row before it. Order and ranges:
  // docs/sampling.md.
  virtual void Sample(float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
                      std::span<SampleResult> results) = 0;

 private:
  friend class DeviceBuffer;
  virtual void Free(void* data, size_t size_bytes) = 0;
};

inline DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) backend_->Free(data_, size_bytes_);
}

// Slow and obvious, in double where that is possible: what every other backend is tested against.
std::unique_ptr<Backend> MakeReferenceBackend();

enum class CpuIsa : uint8_t { kAuto, kPortable, kAvx2, kAvx512, kAvx512Vnni, kAmx };

struct CpuBackendOptions {
  int num_threads = 0;  // 0: every CPU this process may use
  CpuIsa isa = CpuIsa::kAuto;
};

// True if this machine can run `isa`.
bool IsSupported(CpuIsa isa);
// Every ISA path gives the same bits (docs/numerics.md, CPU). REQUIRES: IsSupported(options.isa).
std::unique_ptr<Backend> MakeCpuBackend(const CpuBackendOptions& options);

}  // namespace tessera
