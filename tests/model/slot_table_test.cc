#include "model/slot_table.h"

#include <algorithm>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

MATCHER_P2(Seen, token, output_count, "") {
  return arg.token == token && arg.output_count == output_count;
}

class SlotTableTest : public testing::Test {
 protected:
  void Start(int32_t slot, const std::vector<TokenId>& tokens, int32_t prompt_length) {
    slots_.Start(
        {.slot = slot, .params = &params_, .tokens = tokens, .prompt_length = prompt_length});
  }

  SamplingParams params_;
  SlotTable slots_{3, 100};
};

TEST_F(SlotTableTest, CountsOutputsAndKnowsPromptTokens) {
  params_.presence_penalty = 1;
  Start(1, {9, 4, 9, 7, 4, 4}, 3);
  EXPECT_THAT(slots_.seen(1), ElementsAre(Seen(4, 2), Seen(7, 1), Seen(9, 0)));
  slots_.AddOutput(1, 9);
  slots_.AddOutput(1, 5);
  slots_.AddOutput(1, 5);
  EXPECT_THAT(slots_.seen(1), ElementsAre(Seen(4, 2), Seen(5, 2), Seen(7, 1), Seen(9, 1)));
}

TEST_F(SlotTableTest, ResumingGivesTheSameCounts) {
  params_.frequency_penalty = 1;
  std::vector<TokenId> tokens = {3, 1, 4};
  Start(0, tokens, 3);
  for (TokenId token : {1, 5, 9, 2, 6, 5, 3, 5}) {
    slots_.AddOutput(0, token);
    tokens.push_back(token);
  }
  Start(2, tokens, 3);
  const auto same = [](const TokenCount& a, const TokenCount& b) {
    return a.token == b.token && a.output_count == b.output_count;
  };
  EXPECT_TRUE(std::equal(slots_.seen(0).begin(), slots_.seen(0).end(), slots_.seen(2).begin(),
                         slots_.seen(2).end(), same));
}

TEST_F(SlotTableTest, KeepsNothingWithoutPenalties) {
  Start(0, {1, 2, 3}, 2);
  slots_.AddOutput(0, 4);
  EXPECT_THAT(slots_.seen(0), IsEmpty());
  EXPECT_TRUE(slots_.IsStarted(0));
  EXPECT_FALSE(slots_.IsStarted(1));
  EXPECT_FALSE(slots_.IsStarted(3));
  EXPECT_FALSE(slots_.IsStarted(-1));
}

TEST_F(SlotTableTest, ANewSequenceForgetsTheOld) {
  params_.repetition_penalty = 1.5f;
  Start(0, {1, 2, 3}, 3);
  Start(0, {8}, 1);
  EXPECT_THAT(slots_.seen(0), ElementsAre(Seen(8, 0)));
}

}  // namespace
}  // namespace tessera
