#include <cstring>

#include "kernels/cuda/instr.h"
#include "kernels/cuda/launch.h"
#include "tests/kernels/simt/conformance.h"

namespace tessera::conformance {
namespace {

using namespace tessera::TESSERA_CUDA_NAMESPACE;

__global__ void ScaleKernel(int* values, int factor, int offset, int size) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < size) values[i] = values[i] * factor + offset;
}

std::vector<int> Iota(int size) {
  std::vector<int> values(size);
  for (int i = 0; i < size; ++i) values[i] = i;
  return values;
}

void CheckProperties(Checker& checker) {
  DeviceProperties properties;
  checker.Expect(OpenDevice(0, &properties).empty(), "device 0 opens");
  checker.Expect(!OpenDevice(1000, &properties).empty(), "device 1000 does not exist");
  checker.Expect(properties.compute_major >= 8, "compute capability");
  checker.Expect(properties.num_sms > 0 && properties.l2_bytes > 0, "sizes");
  checker.Expect(properties.max_shared_bytes_per_block >= 163 * 1024, "shared memory of a block");
  checker.Expect(FreeDeviceBytes() <= properties.total_memory_bytes, "free memory");
}

void CheckAllocation(Checker& checker) {
  const size_t before = FreeDeviceBytes();
  {
    const DeviceMemory memory(size_t{64} << 20);
    checker.Expect(reinterpret_cast<uintptr_t>(memory.data()) % 256 == 0, "alignment");
    checker.Expect(FreeDeviceBytes() < before, "taken from what is free");
  }
  checker.Expect(DeviceMemory::TryAllocate(size_t{1} << 50).data() == nullptr, "a petabyte");
  checker.Expect(DeviceMemory::TryAllocate(0).data() == nullptr, "nothing");
}

// A step as an engine does it: stage, copy, launch twice, copy back, wait for an event.
void CheckStreamOrder(Checker& checker) {
  constexpr int kSize = 1000;
  const PinnedMemory staging(kSize * sizeof(int)), result(kSize * sizeof(int));
  const DeviceMemory device(kSize * sizeof(int));
  auto* values = reinterpret_cast<int*>(device.data());
  const Stream stream;
  const Event done;
  checker.Expect(done.IsDone(), "an event never recorded is done");
  for (int round = 0; round < 3; ++round) {
    const std::vector<int> input = Iota(kSize);
    std::memcpy(staging.data(), input.data(), kSize * sizeof(int));
    CopyToDeviceAsync(values, staging.data(), kSize * sizeof(int), stream);
    Launch<ScaleKernel>(stream, 8, 128, 0, values, 3, round, kSize);
    Launch<ScaleKernel>(stream, 8, 128, 0, values, 2, 1, kSize);
    CopyToHostAsync(result.data(), values, kSize * sizeof(int), stream);
    done.Record(stream);
    while (!done.IsDone()) {
    }
    const int* got = reinterpret_cast<const int*>(result.data());
    for (int i = 0; i < kSize; ++i)
      checker.ExpectEqual(got[i], (i * 3 + round) * 2 + 1, "value", i);
  }
}

void CheckTwoStreams(Checker& checker) {
  const DeviceArray<int> values(Iota(256)), copy(256);
  const Stream first, second;
  const Event ready, begin;
  begin.Record(first);
  Launch<ScaleKernel>(first, 2, 128, 0, values.data(), 5, 0, 256);
  ready.Record(first);
  second.WaitFor(ready);
  CopyOnDeviceAsync(copy.data(), values.data(), 256 * sizeof(int), second);
  second.Synchronize();
  const std::vector<int> got = copy.ToHost();
  for (int i = 0; i < 256; ++i) checker.ExpectEqual(got[i], i * 5, "copy", i);
  first.Synchronize();
  checker.Expect(MillisecondsBetween(begin, ready) >= 0, "time goes on");
}

void CheckFill(Checker& checker) {
  const DeviceArray<int> values(Iota(64));
  const Stream stream;
  FillAsync(values.data(), 0x11, 32 * sizeof(int), stream);
  stream.Synchronize();
  const std::vector<int> got = values.ToHost();
  for (int i = 0; i < 64; ++i) checker.ExpectEqual(got[i], i < 32 ? 0x11111111 : i, "value", i);
}

// A graph runs nothing while it is captured, and its arguments are those of the capture.
void CheckGraph(Checker& checker) {
  const DeviceArray<int> values(Iota(256));
  const Stream stream;
  int factor = 2;
  const Graph graph = Graph::Capture(stream, [&] {
    Launch<ScaleKernel>(stream, 2, 128, 0, values.data(), factor, 1, 256);
    Launch<ScaleKernel>(stream, 2, 128, 0, values.data(), 1, 3, 256);
  });
  factor = 100;
  stream.Synchronize();
  checker.ExpectEqual(values.ToHost()[7], 7, "before", 7);
  for (int i = 0; i < 2; ++i) graph.Launch(stream);
  stream.Synchronize();
  const std::vector<int> got = values.ToHost();
  for (int i = 0; i < 256; ++i) checker.ExpectEqual(got[i], (i * 2 + 4) * 2 + 4, "after", i);
}

// ---- dynamic shared memory of any size ----

__global__ void LargeSharedKernel(int* out, int num_ints) {
  TESSERA_SHARED(int[128], partial);
  int* values = DynamicShared<int>();
  const int i = static_cast<int>(threadIdx.x);
  for (int j = i; j < num_ints; j += 128) values[j] = j;
  __syncthreads();
  int sum = 0;
  for (int j = i; j < num_ints; j += 128) sum += values[num_ints - 1 - j] % 7;
  partial[i] = sum;
  __syncthreads();
  if (i == 0) {
    for (int j = 1; j < 128; ++j) sum += partial[j];
    *out = sum;
  }
}

void CheckLargeShared(Checker& checker) {
  for (const int num_ints : {100, 12 * 1024, 25 * 1024, 40 * 1024}) {
    const DeviceArray<int> out(1);
    const Stream stream;
    Launch<LargeSharedKernel>(stream, 1, 128, num_ints * sizeof(int), out.data(), num_ints);
    stream.Synchronize();
    int want = 0;
    for (int j = 0; j < num_ints; ++j) want += j % 7;
    checker.ExpectEqual(out.ToHost()[0], want, "sum over bytes", num_ints * 4);
  }
}

}  // namespace

std::vector<Case> RuntimeCases() {
  return {{"device properties", CheckProperties},
          {"allocation", CheckAllocation},
          {"order of a stream", CheckStreamOrder},
          {"two streams", CheckTwoStreams},
          {"fill", CheckFill},
          {"graph", CheckGraph},
          {"large shared memory", CheckLargeShared}};
}

}  // namespace tessera::conformance
