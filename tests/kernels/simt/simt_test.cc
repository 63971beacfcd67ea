// The simulated device finds what it claims to find: every planted bug, under every one of a few
// seeds where it aborts, under most where it shows itself in the result.

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cuda/runtime.h"
#include "tests/kernels/simt/planted_bugs.h"

namespace tessera {
namespace {

using planted::DynamicSharedStore;
using planted::GlobalStore;
using planted::StaticSharedStore;

constexpr int kNumSeeds = 16;

int NumWrong(bool (*is_right)()) {
  int num_wrong = 0;
  for (int seed = 1; seed <= kNumSeeds; ++seed) {
    simt::Device::Get().SetSeed(static_cast<unsigned>(seed));
    num_wrong += !is_right();
  }
  return num_wrong;
}

TEST(SimtTest, RightKernelsAreRightUnderEverySeed) {
  EXPECT_EQ(NumWrong(planted::BlockExchange), 0);
  EXPECT_EQ(NumWrong(planted::WarpBroadcast), 0);
  EXPECT_EQ(NumWrong(planted::Pipeline), 0);
}

// Such a bug shows itself where the order of warps or lanes is the wrong one.
TEST(SimtTest, MissingBarriersShow) {
  EXPECT_GE(NumWrong(planted::BlockExchangeWithoutBarrierBeforeRead), kNumSeeds / 2);
  EXPECT_GE(NumWrong(planted::BlockExchangeWithoutBarrierAfterRead), kNumSeeds / 2);
  EXPECT_GE(NumWrong(planted::WarpBroadcastWithoutSyncwarp), kNumSeeds / 2);
}

TEST(SimtTest, MissingWaitsShow) {
  EXPECT_EQ(NumWrong(planted::PipelineWaitsForTooFew), kNumSeeds);
  EXPECT_EQ(NumWrong(planted::PipelineWithoutBarrierAfterWait), kNumSeeds);
  EXPECT_GE(NumWrong(planted::PipelineWithoutBarrierBeforeReuse), kNumSeeds / 2);
}

using SimtDeathTest = testing::Test;

TEST(SimtDeathTest, AsyncCopiesUnderWayAtTheEnd) {
  EXPECT_DEATH(planted::EndWithoutWait(), "EndWithoutWaitKernel.*cp.async still under way");
}

TEST(SimtDeathTest, DivergentLanes) {
  EXPECT_DEATH(planted::DivergentShuffle(),
               "DivergentShuffleKernel, block \\(0, 0, 0\\).*divergent warp.*__shfl_xor_sync.*"
               "lanes .*planted_bugs.cu");
  EXPECT_DEATH(planted::HalfWarpShuffle(),
               "deadlock.*\n(.*\n)*.*lanes (0|16)-(15|31): __(shfl_xor_sync|syncthreads)");
  EXPECT_DEATH(planted::AbsentSource(), "shuffles from lane 20, which takes no part");
  EXPECT_DEATH(planted::DivergentBarrier(), "divergent barrier");
  EXPECT_DEATH(planted::PartialWarpMma(), "needs all 32 lanes");
  EXPECT_DEATH(planted::UnbalancedNamedBarrier(), "deadlock.*\n.*bar.sync");
}

TEST(SimtDeathTest, BadAddressesOfInstructions) {
  EXPECT_DEATH(planted::MisalignedRow(), "ldmatrix: the address of lane 0 is misaligned");
  EXPECT_DEATH(planted::ForeignRow(), "ldmatrix: the address of lane 0 .*outside shared memory");
}

// By the guard zones, or, under AddressSanitizer, at the access.
constexpr char kOutOfBounds[] = "a store out of bounds|AddressSanitizer: use-after-poison";

TEST(SimtDeathTest, StoresOutOfBounds) {
  for (const int past : {1, 2, 100, -100}) {
    EXPECT_DEATH(DynamicSharedStore(past), kOutOfBounds);
    EXPECT_DEATH(StaticSharedStore(past), kOutOfBounds);
  }
  for (const int index : {25, 26, 60, -1}) EXPECT_DEATH(GlobalStore(index), kOutOfBounds);
  DynamicSharedStore(0);
  StaticSharedStore(0);
  GlobalStore(24);
}

// ---- the runtime's other side: streams, copies, memory ----

namespace cuda = cuda_shim;

TEST(SimtRuntimeTest, ResultsReadTooEarlyAreNotThere) {
  const cuda::DeviceArray<int> values(std::vector<int>(16, 1));
  const cuda::PinnedMemory result(16 * sizeof(int));
  const cuda::Stream stream;
  std::memset(result.data(), 0, result.size_bytes());
  cuda::CopyToHostAsync(result.data(), values.data(), result.size_bytes(), stream);
  EXPECT_EQ(result.data()[0], 0);
  stream.Synchronize();
  EXPECT_EQ(result.data()[0], 1);
}

TEST(SimtRuntimeTest, StagingMemoryReusedTooEarlyIsSeen) {
  const cuda::DeviceArray<int> values(1);
  const cuda::PinnedMemory staging(sizeof(int));
  const cuda::Stream stream;
  *reinterpret_cast<int*>(staging.data()) = 1;
  cuda::CopyToDeviceAsync(values.data(), staging.data(), sizeof(int), stream);
  *reinterpret_cast<int*>(staging.data()) = 2;
  stream.Synchronize();
  EXPECT_EQ(values.ToHost()[0], 2);
}

TEST(SimtRuntimeTest, FreshMemoryIsPoison) {
  const cuda::DeviceArray<uint32_t> values(100);
  for (uint32_t value : values.ToHost()) EXPECT_EQ(value, 0xFFFFFFFFu);
}

TEST(SimtRuntimeDeathTest, CopiesOfTheWrongKind) {
  const cuda::DeviceArray<int> values(16);
  const cuda::Stream stream;
  int host[32] = {};
  EXPECT_DEATH(cuda::CopyToDevice(host, values.data(), 4), "not within one device allocation");
  EXPECT_DEATH(cuda::CopyToDevice(values.data(), host, 17 * sizeof(int)), "not within one device");
  EXPECT_DEATH(cuda::CopyToDeviceAsync(values.data(), host, 4, stream), "not within one pinned");
}

TEST(SimtRuntimeDeathTest, WaitingWhileCapturing) {
  const cuda::Stream stream;
  EXPECT_DEATH(cuda::Graph::Capture(stream, [&] { stream.Synchronize(); }), "captures a graph");
}

}  // namespace
}  // namespace tessera
