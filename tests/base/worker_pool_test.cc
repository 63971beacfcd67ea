#include "base/worker_pool.h"

#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <numeric>

namespace tessera {
namespace {

class WorkerPoolTest : public testing::TestWithParam<int> {};

TEST_P(WorkerPoolTest, RunsEveryWorkerOnceEachTime) {
  WorkerPool pool(GetParam());
  std::vector<int> calls(pool.num_threads(), 0);
  for (int round = 0; round < 2000; ++round) pool.Run([&](int worker) { ++calls[worker]; });
  for (const int count : calls) EXPECT_EQ(count, 2000);
}

TEST_P(WorkerPoolTest, BarrierSeparatesPhases) {
  WorkerPool pool(GetParam());
  const int num_threads = pool.num_threads();
  std::vector<int> written(num_threads, 0);
  std::vector<int> sums(num_threads, 0);
  for (int round = 1; round <= 500; ++round) {
    pool.Run([&](int worker) {
      written[worker] = round;
      pool.Barrier();
      sums[worker] = std::accumulate(written.begin(), written.end(), 0);
      pool.Barrier();
    });
    for (const int sum : sums) ASSERT_EQ(sum, round * num_threads);
  }
}

INSTANTIATE_TEST_SUITE_P(ThreadCounts, WorkerPoolTest, testing::Values(1, 2, 3, 5));

TEST(WorkerPoolMxcsrTest, WorkersNeitherFlushNorCarryOverTheCallersMode) {
  constexpr unsigned kFlushToZero = 0x8000;
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | kFlushToZero);
  WorkerPool pool(3);
  std::vector<unsigned> modes(3);
  constexpr unsigned kStickyFlags = 0x3F;
  pool.Run([&](int worker) { modes[worker] = _mm_getcsr() & ~kStickyFlags; });
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  for (const unsigned mode : modes) EXPECT_EQ(mode, 0x1F80u);
  EXPECT_EQ(after & kFlushToZero, kFlushToZero) << "the caller's own mode must come back";
}

TEST(WorkerPoolSleepTest, WakesAfterTheSpinTimeHasPassed) {
  WorkerPool pool(2);
  for (int round = 0; round < 20; ++round) {
    // Longer than the bounded spin: the worker is asleep on its futex when the next Run comes.
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    int seen = 0;
    pool.Run([&](int worker) {
      if (worker == 1) seen = round + 1;
    });
    ASSERT_EQ(seen, round + 1);
  }
}

TEST(NumUsableCpusTest, IsAtLeastOne) { EXPECT_GE(NumUsableCpus(), 1); }

}  // namespace
}  // namespace tessera
