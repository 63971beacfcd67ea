#include "kernels/cuda/instr.h"
#include "kernels/cuda/launch.h"
#include "tests/kernels/simt/planted_bugs.h"

namespace tessera::planted {
namespace {

using namespace tessera::TESSERA_CUDA_NAMESPACE;

constexpr unsigned kFull = 0xFFFFFFFFu;

std::vector<int> Run(void (*enqueue)(const Stream&, int*), size_t size) {
  const DeviceArray<int> out(std::vector<int>(size, -2));
  const Stream stream;
  enqueue(stream, out.data());
  stream.Synchronize();
  return out.ToHost();
}

// Warp 0 writes what warp 1 reads. Right: both barriers. The second keeps the next round's write
// behind this round's read.
template <bool kBeforeRead, bool kAfterRead>
__global__ void ExchangeKernel(int* out) {
  TESSERA_SHARED(int[32], values);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int sum = 0;
  for (int round = 0; round < 3; ++round) {
    if (threadIdx.x < 32) values[lane] = round * 1000 + lane;
    if constexpr (kBeforeRead) __syncthreads();
    if (threadIdx.x >= 32) sum += values[31 - lane];
    if constexpr (kAfterRead) __syncthreads();
  }
  if (threadIdx.x >= 32) out[lane] = sum;
}

template <bool kBeforeRead, bool kAfterRead>
bool ExchangeIsRight() {
  const std::vector<int> got =
      Run([](const Stream& stream,
             int* out) { Launch<ExchangeKernel<kBeforeRead, kAfterRead>>(stream, 1, 64, 0, out); },
          32);
  for (int i = 0; i < 32; ++i) {
    if (got[i] != 3000 + 3 * (31 - i)) return false;
  }
  return true;
}

// One lane writes what its warp reads.
template <bool kSync>
__global__ void BroadcastKernel(int* out) {
  TESSERA_SHARED(int, value);
  if (threadIdx.x == 5) value = 77;
  if constexpr (kSync) __syncwarp();
  out[threadIdx.x] = value;
}

template <bool kSync>
bool BroadcastIsRight() {
  const std::vector<int> got = Run(
      [](const Stream& stream, int* out) { Launch<BroadcastKernel<kSync>>(stream, 1, 32, 0, out); },
      32);
  for (int value : got) {
    if (value != 77) return false;
  }
  return true;
}

// kPending: how many groups the wait leaves under way, of the two begun.
template <int kPending, bool kBarrier, bool kBarrierBeforeReuse>
__global__ void PipelineKernel(const uint4* in, int* out) {
  TESSERA_SHARED(uint4[2 * 64], stages);
  const int i = static_cast<int>(threadIdx.x);
  CopyAsync16(&stages[i], &in[i]);
  CopyAsyncCommit();
  for (int tile = 0; tile < 4; ++tile) {
    if (tile < 3) CopyAsync16(&stages[(tile + 1) % 2 * 64 + i], &in[(tile + 1) * 64 + i]);
    CopyAsyncCommit();
    CopyAsyncWait<kPending>();
    if constexpr (kBarrier) __syncthreads();
    out[tile * 64 + i] = static_cast<int>(stages[tile % 2 * 64 + 63 - i].x);
    if constexpr (kBarrierBeforeReuse) __syncthreads();
  }
  CopyAsyncWait<0>();
}

template <int kPending, bool kBarrier, bool kBarrierBeforeReuse>
bool PipelineIsRight() {
  std::vector<uint4> values(256);
  for (unsigned i = 0; i < 256; ++i) values[i] = make_uint4(i, 0, 0, 0);
  const DeviceArray<uint4> in(values);
  const DeviceArray<int> out(256);
  const Stream stream;
  Launch<PipelineKernel<kPending, kBarrier, kBarrierBeforeReuse>>(stream, 1, 64, 0, in.data(),
                                                                  out.data());
  stream.Synchronize();
  const std::vector<int> got = out.ToHost();
  for (int i = 0; i < 256; ++i) {
    if (got[i] != i / 64 * 64 + 63 - i % 64) return false;
  }
  return true;
}

__global__ void EndWithoutWaitKernel(const uint4* in) {
  TESSERA_SHARED(uint4[32], stage);
  CopyAsync16(&stage[threadIdx.x], &in[threadIdx.x]);
  CopyAsyncCommit();
}

__global__ void DivergentShuffleKernel(int* out) {
  int value = static_cast<int>(threadIdx.x);
  if (threadIdx.x < 16) {
    value = __shfl_xor_sync(kFull, value, 1);
  } else {
    value = __shfl_xor_sync(kFull, value, 2);
  }
  out[threadIdx.x] = value;
}

__global__ void HalfWarpShuffleKernel(int* out) {
  int value = static_cast<int>(threadIdx.x);
  if (threadIdx.x < 16) value = __shfl_xor_sync(kFull, value, 1);
  __syncthreads();
  out[threadIdx.x] = value;
}

__global__ void AbsentSourceKernel(int* out) {
  const int value = static_cast<int>(threadIdx.x);
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xFFFFu, value, 20);
}

__global__ void DivergentBarrierKernel(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

__global__ void PartialWarpMmaKernel(int* out) {
  if (threadIdx.x == 3) return;
  const uint32_t a[4] = {};
  float c[4] = {};
  Mma16816<Bf16>(c, a, 0, 0);
  out[threadIdx.x] = static_cast<int>(c[0]);
}

__global__ void UnbalancedNamedBarrierKernel(int* out) {
  if (threadIdx.x < 32) NamedBarrierSync(3, 64);
  out[threadIdx.x] = 1;
}

// Stores `past` elements beyond what the block was given.
__global__ void DynamicSharedStoreKernel(int num_ints, int past) {
  DynamicShared<int>()[num_ints - 1 + past] = 5;
}

__global__ void StaticSharedStoreKernel(int past) {
  TESSERA_SHARED(int[32], values);
  int* last = &values[31];
  last[past] = 5;
}

__global__ void GlobalStoreKernel(int* values, int index) { values[index] = 5; }

__global__ void MisalignedRowKernel(int* out) {
  TESSERA_SHARED(uint4[33], rows);
  uint32_t registers[4];
  LoadMatrix4(registers, reinterpret_cast<const char*>(rows) + threadIdx.x * 16 + 2);
  out[threadIdx.x] = static_cast<int>(registers[0]);
}

__global__ void ForeignRowKernel(int* out) {
  uint32_t registers[4];
  LoadMatrix4(registers, out);
  out[threadIdx.x] = static_cast<int>(registers[0]);
}

template <auto Kernel>
void RunInts(unsigned num_threads) {
  const DeviceArray<int> out(256);
  const Stream stream;
  Launch<Kernel>(stream, 1, num_threads, 0, out.data());
  stream.Synchronize();
}

}  // namespace

bool BlockExchange() { return ExchangeIsRight<true, true>(); }
bool BlockExchangeWithoutBarrierBeforeRead() { return ExchangeIsRight<false, true>(); }
bool BlockExchangeWithoutBarrierAfterRead() { return ExchangeIsRight<true, false>(); }
bool WarpBroadcast() { return BroadcastIsRight<true>(); }
bool WarpBroadcastWithoutSyncwarp() { return BroadcastIsRight<false>(); }
bool Pipeline() { return PipelineIsRight<1, true, true>(); }
bool PipelineWaitsForTooFew() { return PipelineIsRight<2, true, true>(); }
bool PipelineWithoutBarrierAfterWait() { return PipelineIsRight<1, false, true>(); }
bool PipelineWithoutBarrierBeforeReuse() { return PipelineIsRight<1, true, false>(); }

void EndWithoutWait() {
  const DeviceArray<uint4> in(32);
  const Stream stream;
  Launch<EndWithoutWaitKernel>(stream, 1, 32, 0, in.data());
  stream.Synchronize();
}

void DivergentShuffle() { RunInts<DivergentShuffleKernel>(32); }
void HalfWarpShuffle() { RunInts<HalfWarpShuffleKernel>(32); }
void AbsentSource() { RunInts<AbsentSourceKernel>(32); }
void DivergentBarrier() { RunInts<DivergentBarrierKernel>(64); }
void PartialWarpMma() { RunInts<PartialWarpMmaKernel>(32); }
void UnbalancedNamedBarrier() { RunInts<UnbalancedNamedBarrierKernel>(64); }
void MisalignedRow() { RunInts<MisalignedRowKernel>(32); }
void ForeignRow() { RunInts<ForeignRowKernel>(32); }

void DynamicSharedStore(int past) {
  const Stream stream;
  Launch<DynamicSharedStoreKernel>(stream, 1, 1, 100 * sizeof(int), 100, past);
  stream.Synchronize();
}

void StaticSharedStore(int past) {
  const Stream stream;
  Launch<StaticSharedStoreKernel>(stream, 1, 1, 0, past);
  stream.Synchronize();
}

void GlobalStore(int index) {
  const DeviceArray<int> values(25);
  const Stream stream;
  Launch<GlobalStoreKernel>(stream, 1, 1, 0, values.data(), index);
  stream.Synchronize();
}

}  // namespace tessera::planted
