#include <bit>
#include <numeric>

#include "kernels/cuda/instr.h"
#include "kernels/cuda/launch.h"
#include "tests/kernels/simt/conformance.h"

namespace tessera::conformance {
namespace {

using namespace tessera::TESSERA_CUDA_NAMESPACE;

constexpr unsigned kFull = 0xFFFFFFFFu;

template <typename T>
std::vector<T> RunOneBlock(void (*enqueue)(const Stream&, T*), size_t size) {
  const DeviceArray<T> out(std::vector<T>(size, T{}));
  const Stream stream;
  enqueue(stream, out.data());
  stream.Synchronize();
  return out.ToHost();
}

// ---- shuffles, votes, reductions ----

constexpr int kNumWarpResults = 18;

// out: [64 lanes][kNumWarpResults]
__global__ void WarpKernel(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int value = static_cast<int>(threadIdx.x) * 10;
  int* row = out + threadIdx.x * kNumWarpResults;
  row[0] = __shfl_xor_sync(kFull, value, 5);
  row[1] = __shfl_up_sync(kFull, value, 3);
  row[2] = __shfl_down_sync(kFull, value, 3);
  row[3] = __shfl_sync(kFull, value, (lane * 7) % 32);
  row[4] = __shfl_xor_sync(kFull, value, 4, 8);
  row[5] = __shfl_up_sync(kFull, value, 3, 8);
  row[6] = __shfl_down_sync(kFull, value, 3, 8);
  row[7] = __shfl_sync(kFull, value, 9, 8);
  row[8] = static_cast<int>(__shfl_xor_sync(kFull, static_cast<float>(value) + 0.5f, 1) * 2);
  row[9] = static_cast<int>(__ballot_sync(kFull, lane % 3 == 0));
  row[10] = __any_sync(kFull, lane == 17) * 2 + __any_sync(kFull, lane == 40);
  row[11] = __all_sync(kFull, lane < 32) * 2 + __all_sync(kFull, lane < 31);
  row[12] = static_cast<int>(__reduce_add_sync(kFull, static_cast<unsigned>(value)));
  row[13] = __reduce_max_sync(kFull, value - 100);
  row[14] = __reduce_min_sync(kFull, value - 100);
  row[15] = static_cast<int>(__reduce_xor_sync(kFull, static_cast<unsigned>(value)));
  // Two halves of a warp, each with a mask of its own.
  if (lane < 16) {
    row[16] = __shfl_xor_sync(0x0000FFFFu, value, 8);
  } else {
    row[16] = __shfl_xor_sync(0xFFFF0000u, value, 1);
  }
  row[17] = __popc(0xF0F0u) + __clz(1) * 100 + __ffs(8) * 10000;
}

int ExpectedWarpResult(int thread, int which) {
  const int lane = thread % 32, base = thread - lane;
  const auto of = [&](int source) { return (base + source) * 10; };
  int sum = 0, exclusive_or = 0;
  for (int i = 0; i < 32; ++i) {
    sum += of(i);
    exclusive_or ^= of(i);
  }
  const int in8 = lane % 8, base8 = lane - in8;
  const int expected[kNumWarpResults] = {of(lane ^ 5),
                                         of(lane >= 3 ? lane - 3 : lane),
                                         of(lane < 29 ? lane + 3 : lane),
                                         of(lane * 7 % 32),
                                         of(base8 + (in8 ^ 4)),
                                         of(in8 >= 3 ? lane - 3 : lane),
                                         of(in8 < 5 ? lane + 3 : lane),
                                         of(base8 + 1),
                                         of(lane ^ 1) * 2 + 1,
                                         0x49249249,
                                         2,
                                         2,
                                         sum,
                                         of(31) - 100,
                                         of(0) - 100,
                                         exclusive_or,
                                         of(lane < 16 ? lane ^ 8 : lane ^ 1),
                                         8 + 3100 + 40000};
  return expected[which];
}

void CheckWarp(Checker& checker) {
  const std::vector<int> got = RunOneBlock<int>(
      [](const Stream& stream, int* out) { Launch<WarpKernel>(stream, 1, 64, 0, out); },
      64 * kNumWarpResults);
  for (int i = 0; i < 64 * kNumWarpResults; ++i) {
    const int which = i % kNumWarpResults;
    checker.ExpectEqual(got[i], ExpectedWarpResult(i / kNumWarpResults, which), "result", which);
  }
}

// Lanes that have left take no part, though a mask names them.
__global__ void LeaveEarlyKernel(int* out) {
  if (threadIdx.x % 32 >= 20) return;
  int total = 1;
  total = static_cast<int>(__reduce_add_sync((1u << 20) - 1, static_cast<unsigned>(total)));
  __syncthreads();
  out[threadIdx.x] = total;
}

void CheckLeaveEarly(Checker& checker) {
  const std::vector<int> got = RunOneBlock<int>(
      [](const Stream& stream, int* out) { Launch<LeaveEarlyKernel>(stream, 1, 96, 0, out); }, 96);
  for (int i = 0; i < 96; ++i) checker.ExpectEqual(got[i], i % 32 < 20 ? 20 : 0, "total", i);
}

// ---- indices and barriers ----

__global__ void IndexKernel(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned size = blockDim.x * blockDim.y * blockDim.z;
  out[block * size + thread] = static_cast<int>(block * 1000 + thread);
}

void CheckIndices(Checker& checker) {
  constexpr int kBlocks = 3 * 4 * 5, kSize = 8 * 3 * 2;
  const std::vector<int> got = RunOneBlock<int>(
      [](const Stream& stream, int* out) {
        Launch<IndexKernel>(stream, dim3(3, 4, 5), dim3(8, 3, 2), 0, out);
      },
      kBlocks * kSize);
  for (int i = 0; i < kBlocks * kSize; ++i) {
    checker.ExpectEqual(got[i], i / kSize * 1000 + i % kSize, "index", i);
  }
}

// Each round every thread reads what a thread of another warp wrote in the last.
__global__ void RotateKernel(int* out, int num_rounds) {
  int* values = DynamicShared<int>();
  const int i = static_cast<int>(threadIdx.x);
  values[i] = i;
  __syncthreads();
  for (int round = 0; round < num_rounds; ++round) {
    const int next = values[(i + 33) % 128];
    __syncthreads();
    values[i] = next;
    __syncthreads();
  }
  out[i] = values[i];
}

void CheckBlockBarrier(Checker& checker) {
  const std::vector<int> got = RunOneBlock<int>(
      [](const Stream& stream, int* out) {
        Launch<RotateKernel>(stream, 1, 128, 128 * sizeof(int), out, 10);
      },
      128);
  for (int i = 0; i < 128; ++i) checker.ExpectEqual(got[i], (i + 330) % 128, "value", i);
}

// Warp 0 fills a slot, warp 1 empties it: "full" is barrier 1, "empty" barrier 2.
__global__ void HandOverKernel(int* out, int num_rounds) {
  TESSERA_SHARED(int[32], slot);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int round = 0; round < num_rounds; ++round) {
    if (threadIdx.x < 32) {
      if (round > 0) NamedBarrierSync(2, 64);
      slot[lane] = round * 100 + lane;
      NamedBarrierArrive(1, 64);
    } else {
      NamedBarrierSync(1, 64);
      out[round * 32 + lane] = slot[31 - lane];
      if (round + 1 < num_rounds) NamedBarrierArrive(2, 64);
    }
  }
}

void CheckNamedBarriers(Checker& checker) {
  const std::vector<int> got = RunOneBlock<int>(
      [](const Stream& stream, int* out) { Launch<HandOverKernel>(stream, 1, 64, 0, out, 8); },
      8 * 32);
  for (int i = 0; i < 8 * 32; ++i) {
    checker.ExpectEqual(got[i], i / 32 * 100 + 31 - i % 32, "value", i);
  }
}

// ---- atomics ----

struct Totals {
  unsigned long long sum64, max64, cas64;
  unsigned sum, max, min, or_bits, cas;
  int signed_max, exchanges;
};

__global__ void AtomicKernel(Totals* totals) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&totals->sum, i);
  atomicMax(&totals->max, i);
  atomicMin(&totals->min, 5000u - i);
  atomicMax(&totals->signed_max, -5 - static_cast<int>(i));
  atomicOr(&totals->or_bits, 1u << (i % 32));
  AtomicAdd64(reinterpret_cast<uint64_t*>(&totals->sum64), uint64_t{i} << 32);
  AtomicMax64(reinterpret_cast<uint64_t*>(&totals->max64), uint64_t{i} << 32);
  unsigned seen = totals->cas;
  while (true) {
    const unsigned old = atomicCAS(&totals->cas, seen, seen + 1);
    if (old == seen) break;
    seen = old;
  }
  if (i == 0) AtomicCas64(reinterpret_cast<uint64_t*>(&totals->cas64), 0, uint64_t{1} << 40);
  if (i < 2) atomicAdd(&totals->exchanges, atomicExch(&totals->signed_max, 7) == 7 ? 1 : 0);
}

void CheckAtomics(Checker& checker) {
  Totals start{};
  start.min = 100000;
  start.signed_max = -1000000;
  const DeviceArray<Totals> totals(std::vector<Totals>{start});
  const Stream stream;
  Launch<AtomicKernel>(stream, 8, 128, 0, totals.data());
  stream.Synchronize();
  const Totals got = totals.ToHost()[0];
  constexpr unsigned kSum = 1024 * 1023 / 2;
  checker.ExpectEqual(got.sum, kSum, "sum", 0);
  checker.ExpectEqual(got.max, 1023u, "max", 0);
  checker.ExpectEqual(got.min, 5000u - 1023u, "min", 0);
  checker.ExpectEqual(got.or_bits, kFull, "or", 0);
  checker.ExpectEqual(got.cas, 1024u, "cas", 0);
  checker.ExpectEqual<uint64_t>(got.sum64, uint64_t{kSum} << 32, "sum64", 0);
  checker.ExpectEqual<uint64_t>(got.max64, uint64_t{1023} << 32, "max64", 0);
  checker.ExpectEqual<uint64_t>(got.cas64, uint64_t{1} << 40, "cas64", 0);
  checker.ExpectEqual(got.signed_max, 7, "exchanged", 0);
  checker.ExpectEqual(got.exchanges, 1, "exchanges that saw 7", 0);
}

// ---- cp.async and wide accesses ----

// Copies in[num_tiles][128] of 16 bytes through two stages; odd tiles' odd chunks are left out.
__global__ void PipelineKernel(const uint4* in, uint4* out, int num_tiles) {
  uint4* stages = DynamicShared<uint4>();
  const int i = static_cast<int>(threadIdx.x);
  const auto load = [&](int tile) {
    if (tile < num_tiles) {
      const bool valid = tile % 2 == 0 || i % 2 == 0;
      CopyAsync16(&stages[tile % 2 * 128 + i], &in[valid ? tile * 128 + i : 0], valid);
    }
    CopyAsyncCommit();
  };
  load(0);
  for (int tile = 0; tile < num_tiles; ++tile) {
    load(tile + 1);
    CopyAsyncWait<1>();
    __syncthreads();
    out[tile * 128 + i] = stages[tile % 2 * 128 + (i ^ 64)];
    __syncthreads();
  }
}

void CheckAsyncCopies(Checker& checker) {
  constexpr int kTiles = 7;
  std::vector<uint4> values(kTiles * 128);
  for (unsigned i = 0; i < values.size(); ++i) values[i] = make_uint4(i, i + 1, i + 2, i + 3);
  const DeviceArray<uint4> in(values), out(values.size());
  const Stream stream;
  Launch<PipelineKernel>(stream, 1, 128, 2 * 128 * sizeof(uint4), in.data(), out.data(), kTiles);
  stream.Synchronize();
  const std::vector<uint4> got = out.ToHost();
  for (int i = 0; i < kTiles * 128; ++i) {
    const bool valid = i / 128 % 2 == 0 || i % 2 == 0;
    const unsigned want = static_cast<unsigned>(i ^ 64);
    checker.ExpectEqual(got[i].x, valid ? want : 0, "x", i);
    checker.ExpectEqual(got[i].w, valid ? want + 3 : 0, "w", i);
  }
}

// Three groups; all but two, then all but one, then all are waited for.
__global__ void WaitCountsKernel(const uint4* in, unsigned* out) {
  TESSERA_SHARED(uint4[3 * 32], stages);
  const int lane = static_cast<int>(threadIdx.x);
  for (int group = 0; group < 3; ++group) {
    CopyAsync16(&stages[group * 32 + lane], &in[group * 32 + lane]);
    CopyAsyncCommit();
  }
  CopyAsyncWait<2>();
  out[lane] = stages[lane].y;
  CopyAsyncWait<1>();
  out[32 + lane] = stages[32 + lane].y;
  CopyAsyncWait<0>();
  out[64 + lane] = stages[64 + lane].y;
}

void CheckWaitCounts(Checker& checker) {
  std::vector<uint4> values(96);
  for (unsigned i = 0; i < 96; ++i) values[i] = make_uint4(0, i * 3, 0, 0);
  const DeviceArray<uint4> in(values);
  const DeviceArray<unsigned> out(96);
  const Stream stream;
  Launch<WaitCountsKernel>(stream, 1, 32, 0, in.data(), out.data());
  stream.Synchronize();
  const std::vector<unsigned> got = out.ToHost();
  for (unsigned i = 0; i < 96; ++i) checker.ExpectEqual(got[i], i * 3, "y", i);
}

__global__ void WideKernel(const uint4* in, uint4* out) {
  const unsigned i = threadIdx.x;
  const uint4 a = Load16(&in[i]);
  const uint4 b = LoadStreaming16(&in[63 - i]);
  Store16(&out[i], make_uint4(a.x, a.y, b.z, b.w));
}

void CheckWideAccesses(Checker& checker) {
  std::vector<uint4> values(64);
  for (unsigned i = 0; i < 64; ++i) values[i] = make_uint4(i, i + 100, i + 200, i + 300);
  const DeviceArray<uint4> in(values), out(64);
  const Stream stream;
  Launch<WideKernel>(stream, 1, 64, 0, in.data(), out.data());
  stream.Synchronize();
  const std::vector<uint4> got = out.ToHost();
  for (unsigned i = 0; i < 64; ++i) {
    checker.ExpectEqual(got[i].y, i + 100, "y", i);
    checker.ExpectEqual(got[i].z, 263 - i, "z", i);
  }
}

}  // namespace

std::vector<Case> WarpCases() {
  return {{"shuffles, votes, reductions", CheckWarp},
          {"lanes that leave early", CheckLeaveEarly},
          {"indices", CheckIndices},
          {"block barrier", CheckBlockBarrier},
          {"named barriers", CheckNamedBarriers},
          {"atomics", CheckAtomics},
          {"cp.async in two stages", CheckAsyncCopies},
          {"cp.async wait counts", CheckWaitCounts},
          {"16-byte accesses", CheckWideAccesses}};
}

}  // namespace tessera::conformance
