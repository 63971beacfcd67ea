#include "model/kv_cache.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "base/check.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

// One sequence's newest rows, in pages 3, 1, 2.
class KvCacheFaultTest : public testing::Test {
 protected:
  static SequenceBatch Batch(int first_position, int num_rows) {
    static int32_t query_starts[2];
    static int32_t kv_lengths[1];
    static constexpr int32_t kPageStarts[] = {0, 3};
    static constexpr int32_t kPageIds[] = {3, 1, 2};
    query_starts[1] = num_rows;
    kv_lengths[0] = first_position + num_rows;
    return {.query_starts = query_starts,
            .kv_lengths = kv_lengths,
            .page_starts = kPageStarts,
            .page_ids = kPageIds};
  }

  // Stores rows of which those at `faults` are not finite.
  void Store(int first_position, int num_rows, const std::vector<int>& faults) {
    std::vector<uint8_t> row_faults(static_cast<size_t>(num_rows));
    for (int position : faults) row_faults[position - first_position] = 1;
    cache_.RecordFaults(Batch(first_position, num_rows), row_faults);
  }
  bool IsFaulty(int position) const { return cache_.IsFaulty(Batch(0, 192), 0, position); }

  static KvCache Create(Backend* backend) {
    auto cache = KvCache::Create(backend, {.num_kv_heads = 1, .head_dim = 16}, 2, 5);
    CHECK(cache.ok()) << cache.status();
    return *std::move(cache);
  }

  std::unique_ptr<Backend> backend_ = MakeReferenceBackend();
  KvCache cache_ = Create(backend_.get());
};

TEST_F(KvCacheFaultTest, AFaultIsSeenFromItsPositionOn) {
  Store(0, 150, {70});
  EXPECT_FALSE(IsFaulty(69));
  EXPECT_TRUE(IsFaulty(70));
  EXPECT_TRUE(IsFaulty(149));
  Store(150, 1, {});
  EXPECT_TRUE(IsFaulty(150)) << "a later row changes nothing";
}

TEST_F(KvCacheFaultTest, RewritingThePositionClearsIt) {
  Store(0, 150, {70, 90});
  Store(65, 10, {});
  EXPECT_FALSE(IsFaulty(149)) << "what was behind the new rows is stale";
  Store(66, 10, {75});
  EXPECT_FALSE(IsFaulty(74));
  EXPECT_TRUE(IsFaulty(75));
}

TEST_F(KvCacheFaultTest, ACopyTakesTheFaultAlongWhereItReachesIt) {
  Store(0, 150, {70});  // offset 6 of page 1
  cache_.RecordCopy({.from = 1, .to = 2, .num_tokens = 6});
  Store(70, 1, {});
  EXPECT_FALSE(IsFaulty(149));
  Store(70, 1, {70});
  cache_.RecordCopy({.from = 1, .to = 2, .num_tokens = 7});
  Store(70, 1, {});
  EXPECT_FALSE(IsFaulty(133));
  EXPECT_TRUE(IsFaulty(134)) << "page 2 now holds it at offset 6";
  cache_.RecordCopy({.from = 1, .to = 2, .num_tokens = 64});
  EXPECT_FALSE(IsFaulty(191)) << "a good page over a faulty one";
}

TEST(KvCacheTest, CopiesInEveryLayer) {
  const std::unique_ptr<Backend> backend = MakeReferenceBackend();
  const KvSpec spec = {.num_kv_heads = 1, .head_dim = 16};
  auto cache = KvCache::Create(backend.get(), spec, 3, 2);
  ASSERT_TRUE(cache.ok()) << cache.status();
  const size_t page_bytes = backend->KvPageBytes(spec);
  for (int layer = 0; layer < 3; ++layer) {
    std::fill_n(cache->layer(layer), page_bytes, static_cast<std::byte>(layer + 1));
  }
  cache->CopyPage({.from = 0, .to = 1, .num_tokens = kPageTokens});
  for (int layer = 0; layer < 3; ++layer) {
    const std::byte* copy = cache->layer(layer) + cache->IndexInLayer(1) * page_bytes;
    EXPECT_EQ(std::count(copy, copy + page_bytes, static_cast<std::byte>(layer + 1)),
              static_cast<std::ptrdiff_t>(page_bytes));
  }
}

TEST(KvCacheTest, MoreMemoryThanThereIsIsAStatus) {
  const std::unique_ptr<Backend> backend = MakeReferenceBackend();
  const auto cache =
      KvCache::Create(backend.get(), {.num_kv_heads = 1024, .head_dim = 512}, 1024, 1 << 24);
  EXPECT_EQ(cache.status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tessera
