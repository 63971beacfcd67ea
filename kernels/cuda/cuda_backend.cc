#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <type_traits>
#include <utility>

#include "base/check.h"
#include "kernels/cuda/activation.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/fault_context.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/kv_page.h"
#include "kernels/cuda/make_backend.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/rope_store_kv.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

template <typename T>
constexpr DType kTypeOf = std::is_same_v<T, Bf16> ? DType::kBf16 : DType::kF16;

int ToInt(int64_t value) {
  CHECK(value >= 0 && value <= std::numeric_limits<int>::max()) << value;
  return static_cast<int>(value);
}

// "cuda.sm_80.bf16.NVIDIA_H200.132": no '-', which separates a fingerprint's parts.
std::string DeviceClass(DType type, const DeviceProperties& device) {
  std::string gpu = device.name;
  const auto is_plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  };
  std::replace_if(
      gpu.begin(), gpu.end(), [&](char c) { return !is_plain(c); }, '_');
  return std::string("cuda.sm_80.") + (type == DType::kBf16 ? "bf16." : "fp16.") + gpu + "." +
         std::to_string(device.num_sms);
}

// The kernels of more rows run for longer than the host takes to launch them.
constexpr int kMaxGraphRows = 256;

bool IsServedByGraphs(const StepRows& step) {
  return step.batch->num_rows() > 0 && step.batch->num_rows() <= kMaxGraphRows &&
         step.selected.size() <= kMaxGraphRows;
}

StepPadding PaddingOf(const StepRows& step) {
  const int num_rows = step.batch->num_rows();
  const int num_selected = static_cast<int>(step.selected.size());
  return {PaddedRows(num_rows) - num_rows, PaddedRows(num_selected) - num_selected};
}

}  // namespace

template <typename T>
CudaBackend<T>::CudaBackend(const DeviceProperties& device)
    : device_(device),
      name_(DeviceClass(kTypeOf<T>, device)),
      flights_{Flight(&stream_), Flight(&stream_)},
      step_(&stream_),
      attention_(kTypeOf<T>, device),
      sampler_(&stream_) {}

template <typename T>
CudaBackend<T>::~CudaBackend() {
  stream_.Synchronize();
}

template <typename T>
DeviceBuffer CudaBackend<T>::Allocate(size_t size_bytes) {
  if (size_bytes == 0) return {};
  DeviceMemory memory = DeviceMemory::TryAllocate(size_bytes);
  CHECK(memory.data() != nullptr) << "device memory: wanted " << size_bytes << " bytes, "
                                  << FreeDeviceBytes() << " are free on " << device_.name;
  void* data = memory.data();
  FillAsync(data, 0, size_bytes, stream_);
  allocations_.emplace(data, std::move(memory));
  return DeviceBuffer(this, data, size_bytes);
}

template <typename T>
void CudaBackend<T>::Free(void* data, size_t /*size_bytes*/) {
  stream_.Synchronize();
  CHECK_EQ(allocations_.erase(data), size_t{1}) << "allocations at that address";
  graphs_.Clear();
}

template <typename T>
void CudaBackend<T>::Synchronize() {
  stream_.Synchronize();
  Deliver(&flights_[num_awaited_ % kMaxInFlight]);
  Deliver(&flights_[(num_awaited_ + 1) % kMaxInFlight]);
}

template <typename T>
void CudaBackend<T>::Deliver(Flight* flight) {
  flight->downloads.Deliver();
  flight->staging.Clear();
}

template <typename T>
void CudaBackend<T>::EndStep() {
  CHECK_LT(num_ended_ - num_awaited_, uint64_t{kMaxInFlight}) << "steps in flight";
  flight().end.Record(stream_);
  ++num_ended_;
}

template <typename T>
void CudaBackend<T>::AwaitStep() {
  CHECK_LT(num_awaited_, num_ended_) << "steps";
  Flight& oldest = flights_[num_awaited_++ % kMaxInFlight];
  oldest.end.Synchronize();
  Deliver(&oldest);
}

template <typename T>
void CudaBackend<T>::ReserveSlots(int num_slots, int max_seen) {
  stream_.Synchronize();
  slots_.Reserve(num_slots, max_seen);
  graphs_.Clear();
}

template <typename T>
void CudaBackend<T>::StartSlot(int slot, std::span<const TokenCount> seen) {
  slots_.Start(slot, seen, &flight().staging, stream_);
}

template <typename T>
void CudaBackend<T>::Upload(const void* host, size_t size_bytes, void* device) {
  stream_.Synchronize();
  CopyToDevice(device, host, size_bytes);
}

template <typename T>
void CudaBackend<T>::Download(const void* device, size_t size_bytes, void* host) {
  CheckIsNoCall();
  flight().downloads.Add(device, size_bytes, host);
}

template <typename T>
void CudaBackend<T>::Zero(void* device, size_t size_bytes) {
  CheckIsNoCall();
  FillAsync(device, 0, size_bytes, stream_);
}

template <typename T>
std::unique_ptr<PackedWeight> CudaBackend<T>::NewWeight(DType type, int64_t rows, int64_t cols) {
  return std::make_unique<CudaWeight>(type, StoredType<T>(type), rows, cols);
}

template <typename T>
void CudaBackend<T>::PackRows(PackedWeight* weight, int64_t first_row, int64_t num_rows,
                              const std::byte* data) {
  static_cast<CudaWeight*>(weight)->Pack(first_row, num_rows, data);
}

template <typename T>
size_t CudaBackend<T>::KvPageBytes(const KvSpec& spec) const {
  return TESSERA_CUDA_NAMESPACE::KvPageBytes(spec);
}

template <typename T>
void CudaBackend<T>::Begin(const StepRows& step, const StepPadding& padding) {
  std::snprintf(fault_context, sizeof(fault_context),
                "step %llu: %d sequences, %d rows, %zu pages, %zu rows selected",
                static_cast<unsigned long long>(++num_steps_), step.batch->num_sequences(),
                step.batch->num_rows(), step.batch->page_ids.size(), step.selected.size());
  step_.Begin(step, padding);
}

template <typename T>
void CudaBackend<T>::RunStep(const StepRows& step, const void* program,
                             const std::function<void()>& calls) {
  if (!IsServedByGraphs(step)) {
    BeginStep(step);
    return calls();
  }
  Begin(step, PaddingOf(step));
  const int num_changes = step_.num_changes() + attention_.num_changes();
  if (num_changes != num_changes_) graphs_.Clear();
  num_changes_ = num_changes;
  pads_rows_ = true;
  graphs_.Run({.program = program,
               .num_rows = step_.view().num_rows,
               .num_selected = step_.view().num_selected,
               .combines = step_.plan().num_combines > 0},
              stream_, calls);
  pads_rows_ = false;
}

template <typename T>
int CudaBackend<T>::NumRows(int64_t n) const {
  return pads_rows_ ? PaddedRows(ToInt(n)) : ToInt(n);
}

template <typename T>
void CudaBackend<T>::CheckIsNoCall() const {
  CHECK(!pads_rows_) << "RunStep's calls may be repeated, which this one may not";
}

template <typename T>
void CudaBackend<T>::Embed(const PackedWeight& table, std::span<const TokenId> tokens, float* out) {
  CHECK(tokens.data() == step_.rows().tokens.data()) << "other tokens than the step's";
  TESSERA_CUDA_NAMESPACE::Embed({.table = CudaWeight::From(table).view(),
                                 .tokens = step_.view().tokens,
                                 .num_rows = NumRows(static_cast<int64_t>(tokens.size())),
                                 .out = out,
                                 .last_tokens = slots_.last_tokens()},
                                stream_);
}

template <typename T>
void CudaBackend<T>::RmsNorm(const float* x, const float* weight, float epsilon, int64_t num_rows,
                             int64_t dim, void* out) {
  TESSERA_CUDA_NAMESPACE::RmsNorm<T>({.x = const_cast<float*>(x),  // not written without an addend
                                      .weight = weight,
                                      .epsilon = epsilon,
                                      .num_rows = NumRows(num_rows),
                                      .dim = ToInt(dim),
                                      .out = out},
                                     stream_);
}

template <typename T>
void CudaBackend<T>::AddRmsNorm(const void* x, const float* weight, float epsilon, int64_t num_rows,
                                int64_t dim, float* residual, void* out) {
  TESSERA_CUDA_NAMESPACE::RmsNorm<T>({.x = residual,
                                      .addend = x,
                                      .weight = weight,
                                      .epsilon = epsilon,
                                      .num_rows = NumRows(num_rows),
                                      .dim = ToInt(dim),
                                      .out = out},
                                     stream_);
}

// Neighbours of one stored type go to one launch.
template <typename T>
void CudaBackend<T>::Linear(const void* x, int64_t num_rows,
                            std::span<const PackedWeight* const> weights, void* out) {
  GemmParams params;
  params.x = x;
  params.num_rows = NumRows(num_rows);
  for (const PackedWeight* weight : weights) params.out_stride += weight->rows();
  T* first_column = static_cast<T*>(out);
  for (size_t i = 0; i < weights.size();) {
    params.out = first_column;
    params.num_weights = 0;
    const DType type = CudaWeight::From(*weights[i]).view().type;
    while (i < weights.size() && params.num_weights < kMaxGemmWeights &&
           CudaWeight::From(*weights[i]).view().type == type) {
      params.weights[params.num_weights++] = CudaWeight::From(*weights[i]).view();
      first_column += weights[i++]->rows();
    }
    Gemm<T>(params, stream_);
  }
}

template <typename T>
void CudaBackend<T>::Logits(const void* x, int64_t num_rows, const PackedWeight& weight,
                            float* out) {
  CheckIsNoCall();
  GemmParams params;
  params.x = x;
  params.num_rows = ToInt(num_rows);
  params.num_weights = 1;
  params.weights[0] = CudaWeight::From(weight).view();
  params.out = out;
  params.out_stride = weight.rows();
  params.out_is_f32 = true;
  Gemm<T>(params, stream_);
}

template <typename T>
void CudaBackend<T>::RopeStoreKv(const RopeStoreKvParams& params) {
  CHECK(params.batch == step_.rows().batch) << "another batch than the step's";
  LaunchRopeStoreKv(stream_, {.type = kTypeOf<T>,
                              .qkv = params.qkv,
                              .num_heads = params.num_heads,
                              .spec = params.spec,
                              .pages = params.pages,
                              .step = step_.view(),
                              .rope_cos = params.rope_cos,
                              .rope_sin = params.rope_sin,
                              .rope_dim = params.rope_dim,
                              .row_faults = params.row_faults});
}

template <typename T>
void CudaBackend<T>::Attention(const AttentionParams& params) {
  CHECK(params.batch == step_.rows().batch) << "another batch than the step's";
  attention_.Run(params, &step_, stream_);
}

template <typename T>
void CudaBackend<T>::SwiGlu(const void* gate_up, int64_t num_rows, int64_t dim, void* out) {
  GatedActivation<T>(
      Activation::kSwiGlu,
      {.gate_up = gate_up, .num_rows = NumRows(num_rows), .dim = ToInt(dim), .out = out}, stream_);
}

template <typename T>
void CudaBackend<T>::GatherRows(const void* x, std::span<const int32_t> rows, size_t row_bytes,
                                void* out) {
  CHECK(rows.data() == step_.rows().selected.data()) << "other rows than the step's selected ones";
  TESSERA_CUDA_NAMESPACE::GatherRows({.x = x,
                                      .rows = step_.view().selected,
                                      .num_rows = NumRows(static_cast<int64_t>(rows.size())),
                                      .row_bytes = static_cast<int64_t>(row_bytes),
                                      .out = out},
                                     stream_);
}

template <typename T>
void CudaBackend<T>::CopyPage(const KvSpec& spec, std::byte* pages, int32_t from, int32_t to,
                              int num_tokens) {
  CheckIsNoCall();
  LaunchCopyPage(stream_, spec, pages, from, to, num_tokens);
}

template <typename T>
void CudaBackend<T>::Sample(float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
                            std::span<SampleResult> results) {
  CheckIsNoCall();
  sampler_.Run(logits, vocab_size, rows, slots_, &flight().staging, &flight().downloads, results);
}

template class CudaBackend<Bf16>;
template class CudaBackend<Fp16>;

CudaBackendOrError MakeBackend(const CudaBackendOptions& options) {
  DeviceProperties device;
  CudaBackendOrError result;
  result.error = OpenDevice(options.device, &device);
  if (!result.error.empty()) return result;
  result.memory_bytes = device.total_memory_bytes;
  CHECK(options.type == DType::kBf16 || options.type == DType::kF16) << Name(options.type);
  if (options.type == DType::kBf16) {
    result.backend = std::make_unique<CudaBackend<Bf16>>(device);
  } else {
    result.backend = std::make_unique<CudaBackend<Fp16>>(device);
  }
  return result;
}

std::string UnsupportedDimension(const CudaModelShape& shape) {
  const auto expect_multiple = [](const char* name, int value, int multiple) {
    if (value % multiple == 0) return std::string();
    return std::string(name) + ": expected a multiple of " + std::to_string(multiple) + ", got " +
           std::to_string(value);
  };
  if (!AttentionSupports(shape.type, shape.head_dim)) {
    return "head_dim: expected one that attention was built for in " +
           std::string(Name(shape.type)) + ", got " + std::to_string(shape.head_dim);
  }
  for (std::string error : {expect_multiple("rope_dim", shape.rope_dim, 16),
                            expect_multiple("hidden_dim", shape.hidden_dim, 8),
                            expect_multiple("ffn_dim", shape.ffn_dim, 8)}) {
    if (!error.empty()) return error;
  }
  return "";
}

uint64_t WeightBytes(DType activations, DType file_type, int64_t rows, int64_t cols) {
  WeightView view;
  view.type =
      activations == DType::kBf16 ? StoredType<Bf16>(file_type) : StoredType<Fp16>(file_type);
  view.rows = ToInt(rows);
  view.cols = ToInt(cols);
  return WeightBytes(view);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
