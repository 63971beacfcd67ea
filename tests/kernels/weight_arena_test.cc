#include "kernels/cpu/weight_arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace tessera {
namespace {

// From the heap, of a part of a chunk, and more than one chunk holds.
constexpr size_t kSizes[] = {64, 1000, size_t{64} << 10, size_t{5} << 20, size_t{130} << 20};

TEST(WeightArenaTest, BlocksAreZeroedAlignedAndApart) {
  WeightArena arena;
  std::vector<std::pair<std::shared_ptr<uint8_t>, size_t>> blocks;
  for (int round = 0; round < 3; ++round) {
    for (const size_t size : kSizes) {
      const std::shared_ptr<uint8_t> block = arena.Allocate(size);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(block.get()) % 64, 0u);
      EXPECT_TRUE(std::all_of(block.get(), block.get() + std::min<size_t>(size, 4096),
                              [](uint8_t byte) { return byte == 0; }));
      EXPECT_EQ(block.get()[size - 1], 0);
      block.get()[0] = block.get()[size - 1] = static_cast<uint8_t>(blocks.size() + 1);
      blocks.emplace_back(block, size);
    }
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    const auto& [block, size] = blocks[i];
    EXPECT_EQ(block.get()[0], i + 1);
    EXPECT_EQ(block.get()[size - 1], i + 1);
  }
}

TEST(WeightArenaTest, BlocksOutliveTheArenaAndOneAnother) {
  std::shared_ptr<uint8_t> last;
  {
    WeightArena arena;
    arena.Allocate(size_t{1} << 20);
    last = arena.Allocate(size_t{1} << 20);
  }
  std::memset(last.get(), 7, size_t{1} << 20);
  EXPECT_EQ(last.get()[(size_t{1} << 20) - 1], 7);
}

}  // namespace
}  // namespace tessera
