#include "scheduler/prefix_index.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <tuple>
#include <vector>

#include "scheduler/page_cache.h"

namespace tessera {
namespace {

using Tokens = std::vector<TokenId>;

TEST(PrefixIndex, FindsAFullPageUnderItsParentAndSaltOnly) {
  PrefixIndex index(8, 4);
  const Tokens tokens = {1, 2, 3, 4};
  index.Insert(5, 7, kNoPage, tokens);
  index.Insert(6, 7, 5, tokens);
  EXPECT_EQ(index.Find(7, kNoPage, tokens), 5);
  EXPECT_EQ(index.Find(7, 5, tokens), 6);
  EXPECT_EQ(index.Find(8, kNoPage, tokens), kNoPage);
  EXPECT_EQ(index.Find(7, 6, tokens), kNoPage);
  EXPECT_EQ(index.Find(7, kNoPage, Tokens{1, 2, 3, 5}), kNoPage);
  index.CheckInvariants();
}

TEST(PrefixIndex, APartlyFilledPageIsFoundOnlyPartially) {
  PrefixIndex index(8, 4);
  index.Insert(1, 0, kNoPage, Tokens{1, 2, 3});
  EXPECT_EQ(index.Find(0, kNoPage, Tokens{1, 2, 3}), 1);
  EXPECT_EQ(index.FindPartial(0, kNoPage, Tokens{1, 2, 9}).num_tokens, 2);
  EXPECT_EQ(index.FindPartial(0, kNoPage, Tokens{1, 2, 3, 4}).num_tokens, 3);
  EXPECT_EQ(index.FindPartial(0, kNoPage, Tokens{2, 2, 3}).page, kNoPage);
  EXPECT_EQ(index.FindPartial(1, kNoPage, Tokens{1, 2, 3}).page, kNoPage);
  EXPECT_EQ(index.FindPartial(0, kNoPage, Tokens{}).page, kNoPage);
}

TEST(PrefixIndex, PrefersTheLongestPartialMatch) {
  PrefixIndex index(8, 4);
  index.Insert(1, 0, kNoPage, Tokens{1, 2});
  index.Insert(2, 0, kNoPage, Tokens{1, 2, 3, 4});
  index.Insert(3, 0, kNoPage, Tokens{1});
  const PrefixIndex::PartialMatch match = index.FindPartial(0, kNoPage, Tokens{1, 2, 3});
  EXPECT_EQ(match.page, 2);
  EXPECT_EQ(match.num_tokens, 3);
}

TEST(PrefixIndex, RefusesToEraseAParentBeforeItsChildren) {
  PrefixIndex index(4, 2);
  index.Insert(0, 0, kNoPage, Tokens{1, 2});
  index.Insert(1, 0, 0, Tokens{3, 4});
  EXPECT_DEATH(index.Erase(0), "before its children");
  index.Erase(1);
  index.Erase(0);
  EXPECT_EQ(index.num_indexed(), 0);
}

// Against the obvious map, with few enough buckets and tokens that chains are long and keys
// collide.
TEST(PrefixIndex, AgreesWithAMapUnderRandomUse) {
  constexpr int kNumPages = 24;
  std::mt19937 random(3);
  PrefixIndex index(kNumPages, 2);
  std::map<std::tuple<uint64_t, PageId, Tokens>, PageId> expected;
  std::vector<int> num_children(kNumPages);
  for (int i = 0; i < 50000; ++i) {
    const PageId page = static_cast<PageId>(random() % kNumPages);
    if (index.Contains(page)) {
      if (num_children[page] > 0) continue;
      const Tokens tokens(index.tokens(page).begin(), index.tokens(page).end());
      if (index.parent(page) != kNoPage) --num_children[index.parent(page)];
      expected.erase({index.salt(page), index.parent(page), tokens});
      index.Erase(page);
    } else {
      const uint64_t salt = random() % 2;
      PageId parent = static_cast<PageId>(random() % kNumPages);
      if (!index.Contains(parent) || index.salt(parent) != salt) parent = kNoPage;
      const Tokens tokens = {static_cast<TokenId>(random() % 3),
                             static_cast<TokenId>(random() % 3)};
      const auto known = expected.find({salt, parent, tokens});
      ASSERT_EQ(index.Find(salt, parent, tokens),
                known == expected.end() ? kNoPage : known->second);
      if (known != expected.end()) continue;
      index.Insert(page, salt, parent, tokens);
      expected[{salt, parent, tokens}] = page;
      if (parent != kNoPage) ++num_children[parent];
    }
    if (i % 64 == 0) index.CheckInvariants();
    ASSERT_EQ(index.num_indexed(), static_cast<int>(expected.size()));
  }
}

class PageCacheTest : public testing::Test {
 protected:
  // A table with these tokens computed and published, as the scheduler would leave it.
  std::vector<PageId> Compute(const Tokens& tokens) {
    std::vector<PageId> table;
    for (size_t i = 0; i < tokens.size(); i += 2) cache_.Extend(&table);
    for (size_t i = 0; i + 2 <= tokens.size(); i += 2) {
      cache_.Publish(0, static_cast<int>(i / 2), std::span(tokens).subspan(i, 2), &table);
    }
    return table;
  }

  PageCache cache_{6, 2};
  PrefixMatch match_;
};

TEST_F(PageCacheTest, EqualPagesBecomeOne) {
  std::vector<PageId> first = Compute({1, 2, 3, 4});
  std::vector<PageId> second = Compute({1, 2, 3, 5});
  EXPECT_EQ(first[0], second[0]);
  EXPECT_NE(first[1], second[1]);
  EXPECT_EQ(cache_.num_free(), 3);
  cache_.CheckInvariants();
}

TEST_F(PageCacheTest, AReleasedTailIsFoundForCopying) {
  const Tokens tokens = {1, 2, 3};
  std::vector<PageId> table = Compute(tokens);
  const std::vector<PageId> pages = table;
  cache_.Release(0, tokens, true, &table);
  EXPECT_EQ(cache_.num_cached(), 2);
  cache_.Match(0, Tokens{1, 2, 3, 4}, &match_);
  EXPECT_EQ(match_.pages, std::vector<PageId>{pages[0]});
  EXPECT_EQ(match_.num_free_among, 1);
  EXPECT_EQ(match_.copy_source, pages[1]);
  EXPECT_EQ(match_.num_tokens, 3);
}

TEST_F(PageCacheTest, TailsAreReusedBeforeHeads) {
  const Tokens tokens = {1, 2, 3, 4, 5, 6};
  std::vector<PageId> table = Compute(tokens);
  cache_.Release(0, tokens, true, &table);
  std::vector<PageId> other;
  for (int i = 0; i < 5; ++i) cache_.Extend(&other);  // three blank, then two of the cached
  cache_.Match(0, tokens, &match_);
  EXPECT_EQ(match_.num_tokens, 2);
  cache_.CheckInvariants();
}

}  // namespace
}  // namespace tessera
