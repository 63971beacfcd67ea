#include "base/philox.h"

#include <gtest/gtest.h>

#include <set>

namespace tessera {
namespace {

using Words = std::array<uint32_t, 4>;

// Known answers published with Random123 (philox4x32, 10 rounds).
TEST(PhiloxTest, MatchesPublishedVectors) {
  EXPECT_EQ(Philox(0, {0, 0, 0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(ForkSeedTest, FirstSequenceKeepsTheSeed) {
  EXPECT_EQ(ForkSeed(0xFFFFFFFFFFFFFFFF, 0), 0xFFFFFFFFFFFFFFFF);
}

TEST(ForkSeedTest, SeedsDifferAndFitAJsonNumber) {
  std::set<uint64_t> seeds;
  for (int index = 1; index <= 64; ++index) {
    const uint64_t seed = ForkSeed(7, index);
    EXPECT_LE(seed, kSeedMask);
    seeds.insert(seed);
  }
  EXPECT_EQ(seeds.size(), 64u);
}

TEST(ForkSeedTest, IsPartOfTheContract) {
  const Words words = Philox(42, {3, 0, 0, 1});
  EXPECT_EQ(ForkSeed(42, 3), ((uint64_t{words[1]} << 32) | words[0]) & kSeedMask);
}

}  // namespace
}  // namespace tessera
