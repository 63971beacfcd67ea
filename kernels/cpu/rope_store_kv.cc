#include "kernels/cpu/rope_store_kv.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/kv_page.h"

namespace tessera {
namespace {

const RopeStoreKvKernel& KernelFor(CpuIsa isa) {
  switch (ResolveIsa(isa)) {
    case CpuIsa::kAuto:
    case CpuIsa::kPortable:
      break;
    case CpuIsa::kAvx2:
      return kRopeStoreKvAvx2;
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Vnni:
    case CpuIsa::kAmx:
      return kRopeStoreKvAvx512;
  }
  return kRopeStoreKvPortable;
}

void CheckParams(const RopeStoreKvParams& params) {
  const int head_dim = params.spec.head_dim;
  CHECK(head_dim % 8 == 0 && head_dim > 0 && head_dim <= kMaxHeadDim)
      << "head_dim must be a multiple of 8 up to " << kMaxHeadDim << ", got " << head_dim;
  CHECK(params.rope_dim % 2 == 0 && params.rope_dim <= head_dim)
      << "rope_dim " << params.rope_dim << " with head_dim " << head_dim;
}

RopeStoreKvCall MakeCall(const RopeStoreKvParams& params) {
  RopeStoreKvCall call;
  call.qkv = static_cast<float*>(params.qkv);
  call.pages = params.pages;
  call.page_bytes = static_cast<int64_t>(CpuKvPageBytes(params.spec));
  call.rope_cos = params.rope_cos;
  call.rope_sin = params.rope_sin;
  call.num_heads = params.num_heads;
  call.num_kv_heads = params.spec.num_kv_heads;
  call.head_dim = params.spec.head_dim;
  call.rope_dim = params.rope_dim;
  return call;
}

// Of a page's first num_tokens tokens, one head's.
void CopyKeys(const uint16_t* source, int head_dim, int num_tokens, uint16_t* target) {
  for (int first = 0; first < num_tokens; first += kKeyBlockTokens) {
    const int num_keys = std::min(kKeyBlockTokens, num_tokens - first);
    for (int d = 0; d < head_dim; ++d) {
      const int64_t offset = KeyOffset(head_dim, first, d);
      std::memcpy(target + offset, source + offset,
                  static_cast<size_t>(num_keys) * sizeof(uint16_t));
    }
  }
}

// A call's heads, counted through all rows.
struct HeadRange {
  int64_t begin;
  int64_t end;
};

void RunRange(const RopeStoreKvKernel& kernel, const RopeStoreKvParams& params,
              const RopeStoreKvCall& call, HeadRange range) {
  const SequenceBatch& batch = *params.batch;
  const int64_t row_heads = call.num_heads + 2 * call.num_kv_heads;
  int sequence = 0;
  for (int64_t row = range.begin / row_heads; row * row_heads < range.end; ++row) {
    while (batch.query_starts[sequence + 1] <= row) ++sequence;
    const int64_t position = batch.kv_lengths[sequence] - (batch.query_starts[sequence + 1] - row);
    const int32_t page_id = batch.page_ids[batch.page_starts[sequence] + position / kPageTokens];
    const int64_t first = std::max<int64_t>(0, range.begin - row * row_heads);
    const int64_t end = std::min(row_heads, range.end - row * row_heads);
    const bool is_faulty =
        kernel.run(call, row, position, page_id, static_cast<int>(first), static_cast<int>(end));
    // Two workers may share a row.
    if (is_faulty) std::atomic_ref(params.row_faults[row]).store(1, std::memory_order_relaxed);
  }
}

}  // namespace

CpuRopeStoreKv::CpuRopeStoreKv(WorkerPool* pool, CpuIsa isa)
    : pool_(pool), kernel_(KernelFor(isa)) {}

void CpuRopeStoreKv::Run(const RopeStoreKvParams& params) {
  CheckParams(params);
  const RopeStoreKvCall call = MakeCall(params);
  const int64_t num_heads =
      int64_t{params.batch->num_rows()} * (call.num_heads + 2 * call.num_kv_heads);
  const int num_threads = pool_->num_threads();
  pool_->Run([&](int worker) {
    RunRange(kernel_, params, call,
             {num_heads * worker / num_threads, num_heads * (worker + 1) / num_threads});
  });
}

size_t CpuKvPageBytes(const KvSpec& spec) {
  return static_cast<size_t>(KvHeadStride(spec.head_dim) * spec.num_kv_heads) * sizeof(uint16_t);
}

void CpuCopyPage(const KvSpec& spec, std::byte* pages, int32_t from, int32_t to, int num_tokens) {
  const auto page_bytes = static_cast<int64_t>(CpuKvPageBytes(spec));
  const auto* source = reinterpret_cast<const uint16_t*>(pages + from * page_bytes);
  auto* target = reinterpret_cast<uint16_t*>(pages + to * page_bytes);
  const size_t value_bytes = static_cast<size_t>(num_tokens) * sizeof(uint16_t) *
                             static_cast<size_t>(PaddedHeadDim(spec.head_dim));
  for (int h = 0; h < spec.num_kv_heads; ++h) {
    CopyKeys(source, spec.head_dim, num_tokens, target);
    std::memcpy(target + ValueOffset(spec.head_dim), source + ValueOffset(spec.head_dim),
                value_bytes);
    source += KvHeadStride(spec.head_dim);
    target += KvHeadStride(spec.head_dim);
  }
}

}  // namespace tessera
