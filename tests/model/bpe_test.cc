#include "model/bpe.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/model/tokenizer_fixture.h"

namespace tessera {
namespace {

// The definition, word for word, in quadratic time: merge the leftmost of the pairs of lowest rank.
std::vector<TokenId> MergeByDefinition(const Vocabulary& vocabulary, std::string_view text) {
  std::map<std::pair<TokenId, TokenId>, std::pair<size_t, TokenId>> merges;
  for (size_t rank = 0; rank < vocabulary.merges().size(); ++rank) {
    const BpeMerge& merge = vocabulary.merges()[rank];
    merges[{merge.left, merge.right}] = {rank, merge.result};
  }
  std::vector<TokenId> tokens;
  for (const char byte : text) {
    tokens.push_back(vocabulary.byte_tokens()[static_cast<unsigned char>(byte)]);
  }
  while (true) {
    size_t best_rank = merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto merge = merges.find({tokens[i], tokens[i + 1]});
      if (merge == merges.end() || merge->second.first >= best_rank) continue;
      best_rank = merge->second.first;
      best = i;
    }
    if (best_rank == merges.size()) return tokens;
    tokens[best] = merges[{tokens[best], tokens[best + 1]}].second;
    tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

std::vector<TokenId> Encode(const Bpe& bpe, std::string_view text) {
  BpeScratch scratch;
  std::vector<TokenId> tokens;
  bpe.Encode(text, &scratch, &tokens);
  return tokens;
}

Vocabulary Make(TestVocabulary& vocabulary) {
  auto made = Vocabulary::Make(vocabulary.metadata());
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

std::string RandomText(std::mt19937* random, size_t size, int num_letters) {
  std::string text(size, ' ');
  for (char& c : text) {
    c = static_cast<char>('a' + std::uniform_int_distribution<>(0, num_letters - 1)(*random));
  }
  return text;
}

// Parts exist before what they make, so the vocabulary is layered. Unlike trained ones it has
// tokens that no text merges to.
void AddRandomMerges(std::mt19937* random, int num_merges, TestVocabulary* vocabulary) {
  std::vector<std::string> parts = {"a", "b", "c"};
  for (int i = 0; i < num_merges; ++i) {
    const auto pick = [&] {
      return parts[std::uniform_int_distribution<size_t>(0, parts.size() - 1)(*random)];
    };
    const std::string left = pick();
    const std::string right = pick();
    const bool exists = std::find(parts.begin(), parts.end(), left + right) != parts.end();
    if (left.size() + right.size() > 24 || exists) continue;
    vocabulary->AddMergedToken(left, right);
    parts.push_back(left + right);
  }
}

// Trains: makes the commonest pair of a text into a token, again and again.
void AddTrainedMerges(std::mt19937* random, int num_merges, TestVocabulary* vocabulary) {
  std::vector<std::string> tokens;
  for (const char c : RandomText(random, 3000, 3)) tokens.emplace_back(1, c);
  for (int i = 0; i < num_merges; ++i) {
    std::map<std::pair<std::string, std::string>, int> counts;
    for (size_t j = 0; j + 1 < tokens.size(); ++j) ++counts[{tokens[j], tokens[j + 1]}];
    const auto commonest =
        std::max_element(counts.begin(), counts.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    const auto [left, right] = commonest->first;
    vocabulary->AddMergedToken(left, right);
    for (size_t j = 0; j + 1 < tokens.size(); ++j) {
      if (tokens[j] != left || tokens[j + 1] != right) continue;
      tokens[j] += right;
      tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(j) + 1);
    }
  }
}

// Every way to split each token, sorted by the token, as Llama-3's files list them: most of those
// merges never apply, and they rank before merges that make their parts.
void AddMergesOfAllSplits(TestVocabulary* vocabulary) {
  std::vector<std::string> tokens;
  const std::vector<std::string_view> spelled = vocabulary->metadata().tokens;
  vocabulary->metadata().merges.clear();
  for (size_t i = 256; i < spelled.size(); ++i) tokens.emplace_back(spelled[i]);
  const auto exists = [&](const std::string& part) {
    return part.size() == 1 || std::find(tokens.begin(), tokens.end(), part) != tokens.end();
  };
  for (const std::string& token : tokens) {
    for (size_t i = 1; i < token.size(); ++i) {
      const std::string left = token.substr(0, i);
      const std::string right = token.substr(i);
      if (exists(left) && exists(right)) vocabulary->AddMerge(left, right);
    }
  }
}

TEST(BpeTest, LayeredVocabulariesMergeByTheDefinition) {
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    TestVocabulary test_vocabulary;
    test_vocabulary.AddAllBytes();
    AddRandomMerges(&random, 1 + round, &test_vocabulary);
    const Vocabulary vocabulary = Make(test_vocabulary);
    const Bpe bpe(vocabulary);
    ASSERT_TRUE(bpe.is_layered());
    for (int i = 0; i < 40; ++i) {
      const std::string text = RandomText(&random, 1 + i, 1 + i % 3);
      ASSERT_EQ(Encode(bpe, text), MergeByDefinition(vocabulary, text)) << round << " " << text;
    }
  }
}

// 4096 bytes and more are merged by rank buckets; the definition's quadratic time bounds the size
// here.
TEST(BpeTest, LongPiecesMergeByTheDefinition) {
  std::mt19937 random(2);
  for (int round = 0; round < 6; ++round) {
    TestVocabulary test_vocabulary;
    test_vocabulary.AddAllBytes();
    AddRandomMerges(&random, 40, &test_vocabulary);
    const Vocabulary vocabulary = Make(test_vocabulary);
    const Bpe bpe(vocabulary);
    ASSERT_TRUE(bpe.is_layered());
    const int num_letters = 1 + round % 3;
    const std::string text = RandomText(&random, 4096 + round * 7, num_letters);
    ASSERT_EQ(Encode(bpe, text), MergeByDefinition(vocabulary, text)) << round;
  }
}

TEST(BpeTest, MergesThatNeverApplyAreLeftOutSoThatVocabulariesOfAllSplitsAreLayered) {
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    TestVocabulary test_vocabulary;
    test_vocabulary.AddAllBytes();
    AddTrainedMerges(&random, 60, &test_vocabulary);
    AddMergesOfAllSplits(&test_vocabulary);
    const Vocabulary vocabulary = Make(test_vocabulary);
    const Bpe bpe(vocabulary);
    ASSERT_TRUE(bpe.is_layered());
    for (int i = 0; i < 60; ++i) {
      const std::string text = RandomText(&random, 1 + i, 1 + i % 3);
      ASSERT_EQ(Encode(bpe, text), MergeByDefinition(vocabulary, text)) << round << " " << text;
    }
    if (round < 3) {
      const std::string text = RandomText(&random, 4200, 3);
      ASSERT_EQ(Encode(bpe, text), MergeByDefinition(vocabulary, text)) << round;
    }
  }
}

TEST(BpeTest, AVocabularyOfAllSplitsIsLayeredOnceItsDeadMergesAreGone) {
  TestVocabulary vocabulary;
  vocabulary.AddAllBytes();
  vocabulary.AddMergedToken("b", "c");
  vocabulary.AddMerge("ab", "c");  // never applies: "bc" is made first
  vocabulary.AddMergedToken("a", "bc");
  vocabulary.AddMergedToken("a", "b");
  EXPECT_TRUE(Bpe(Make(vocabulary)).is_layered());
}

// Merges in any order: a pair may rank before the merges that make its parts.
TEST(BpeTest, UnlayeredVocabulariesMergeByTheDefinition) {
  std::mt19937 random(4);
  int num_unlayered = 0;
  for (int round = 0; round < 40; ++round) {
    TestVocabulary test_vocabulary;
    test_vocabulary.AddAllBytes();
    AddRandomMerges(&random, 30, &test_vocabulary);
    std::vector<std::string_view>& merges = test_vocabulary.metadata().merges;
    std::shuffle(merges.begin(), merges.end(), random);
    const Vocabulary vocabulary = Make(test_vocabulary);
    const Bpe bpe(vocabulary);
    if (!bpe.is_layered()) ++num_unlayered;
    for (int i = 0; i < 40; ++i) {
      const std::string text = RandomText(&random, 1 + i, 1 + i % 3);
      ASSERT_EQ(Encode(bpe, text), MergeByDefinition(vocabulary, text)) << round << " " << text;
    }
    if (round < 3) {
      const std::string text = RandomText(&random, 4200, 3);
      ASSERT_EQ(Encode(bpe, text), MergeByDefinition(vocabulary, text)) << round;
    }
  }
  EXPECT_GT(num_unlayered, 20);
}

TEST(BpeTest, BytesWithoutATokenBecomeTheReplacementCharacter) {
  TestVocabulary test_vocabulary;
  const TokenId a = test_vocabulary.AddToken("a");
  const TokenId ef = test_vocabulary.AddToken(Spell("\xEF"));
  const TokenId bf = test_vocabulary.AddToken(Spell("\xBF"));
  const TokenId bd = test_vocabulary.AddToken(Spell("\xBD"));
  const TokenId bfbd = test_vocabulary.AddMergedToken("\xBF", "\xBD");
  const Bpe bpe(Make(test_vocabulary));
  EXPECT_EQ(Encode(bpe, "aza"), (std::vector<TokenId>{a, ef, bfbd, a}));
  EXPECT_EQ(Encode(bpe, "\xBD\xBF"), (std::vector<TokenId>{bd, bf}));
}

TEST(BpeTest, BytesWithoutATokenAreLeftOutWhereTheReplacementCharacterHasNoneEither) {
  TestVocabulary test_vocabulary;
  const TokenId a = test_vocabulary.AddToken("a");
  test_vocabulary.AddMergedToken("a", "a");
  const Bpe bpe(Make(test_vocabulary));
  EXPECT_EQ(Encode(bpe, "za"), (std::vector<TokenId>{a}));
  EXPECT_EQ(Encode(bpe, "aza"), (std::vector<TokenId>{a, a}))
      << "what it stood between is not joined";
}

// Counts operations, not time: nearly the same number a byte, however long the text.
TEST(BpeTest, WorkGrowsLinearlyOnHostileText) {
  TestVocabulary test_vocabulary;
  test_vocabulary.AddAllBytes();
  // Doubling runs of 'a', and a chain that "abab..." merges along.
  for (std::string run = "a"; run.size() < 4096; run += run)
    test_vocabulary.AddMergedToken(run, run);
  test_vocabulary.AddMergedToken("a", "b");
  for (std::string chain = "ab"; chain.size() < 64; chain += "ab") {
    test_vocabulary.AddMergedToken(chain, "ab");
  }
  const Bpe bpe(Make(test_vocabulary));
  ASSERT_TRUE(bpe.is_layered());
  for (const std::string_view unit : {"a", "ab", "aab", "abcaaaabaa"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    BpeScratch scratch;
    std::vector<TokenId> tokens;
    bpe.Encode(text, &scratch, &tokens);
    EXPECT_LT(scratch.num_operations(), 8 * text.size()) << unit;
    EXPECT_GT(scratch.num_operations(), text.size()) << unit;
  }
}

}  // namespace
}  // namespace tessera
