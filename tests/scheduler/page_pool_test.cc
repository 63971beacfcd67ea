#include "scheduler/page_pool.h"

#include <gtest/gtest.h>

#include <random>

namespace tessera {
namespace {

TEST(PagePool, HandsOutEachPageOnce) {
  PagePool pool(3);
  EXPECT_EQ(pool.Take(), 0);
  EXPECT_EQ(pool.Take(), 1);
  EXPECT_EQ(pool.Take(), 2);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_DEATH(pool.Take(), "no free page");
}

TEST(PagePool, ReusesBlankPagesBeforeCachedOnesAndThoseOldestFirst) {
  PagePool pool(4);
  for (int i = 0; i < 4; ++i) pool.Take();
  pool.Release(2, true);
  pool.Release(0, true);
  pool.Release(3, false);
  pool.Release(1, true);
  EXPECT_EQ(pool.num_reusable(), 3);
  EXPECT_EQ(pool.Take(), 3);
  EXPECT_EQ(pool.Take(), 2);
  EXPECT_EQ(pool.Take(), 0);
  EXPECT_EQ(pool.Take(), 1);
  EXPECT_EQ(pool.num_reusable(), 0);
}

TEST(PagePool, APageIsFreeOnceItsLastHolderLetsGo) {
  PagePool pool(2);
  const PageId page = pool.Take();
  pool.Retain(page);
  pool.Release(page, true);
  EXPECT_FALSE(pool.is_free(page));
  pool.Release(page, true);
  EXPECT_TRUE(pool.is_free(page));
  pool.Retain(page);  // a hit takes it out of the middle of the list
  EXPECT_FALSE(pool.is_free(page));
  EXPECT_EQ(pool.num_free(), 1);
  pool.CheckInvariants();
}

TEST(PagePool, APinKeepsAPageThatNobodyHolds) {
  PagePool pool(2);
  const PageId page = pool.Take();
  pool.Pin(page);
  pool.Release(page, true);
  EXPECT_FALSE(pool.is_free(page));
  EXPECT_EQ(pool.references(page), 0);
  pool.Unpin(page, true);
  EXPECT_TRUE(pool.is_free(page));
}

TEST(PagePool, RefusesADoubleRelease) {
  PagePool pool(1);
  const PageId page = pool.Take();
  pool.Release(page, false);
  EXPECT_DEATH(pool.Release(page, false), "released twice");
}

TEST(PagePool, CountsHoldUnderRandomUse) {
  std::mt19937 random(1);
  PagePool pool(7);
  std::vector<PageId> held;
  for (int i = 0; i < 20000; ++i) {
    const bool may_take = pool.num_free() > 0;
    if (may_take && random() % 2 == 0) {
      held.push_back(pool.Take());
    } else if (!held.empty() && random() % 3 == 0) {
      held.push_back(held[random() % held.size()]);
      pool.Retain(held.back());
    } else if (!held.empty()) {
      std::swap(held.back(), held[random() % held.size()]);
      pool.Release(held.back(), random() % 2 == 0);
      held.pop_back();
    }
    pool.CheckInvariants();
    for (PageId page = 0; page < 7; ++page) {
      ASSERT_EQ(pool.references(page), std::count(held.begin(), held.end(), page));
    }
  }
}

}  // namespace
}  // namespace tessera
