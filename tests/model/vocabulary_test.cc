#include "model/vocabulary.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/bpe_tokenizer.h"
#include "tests/model/tokenizer_fixture.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Refusal(TestVocabulary& vocabulary) {
  const auto made = BpeTokenizer::Make(vocabulary.metadata());
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument) << made.status();
  return std::string(made.status().message());
}

TEST(VocabularyTest, SpellsEveryByte) {
  TestVocabulary test_vocabulary;
  test_vocabulary.AddAllBytes();
  const auto vocabulary = Vocabulary::Make(test_vocabulary.metadata());
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  for (int b = 0; b < 256; ++b) {
    EXPECT_EQ(vocabulary->Bytes(b), std::string(1, static_cast<char>(b)));
    EXPECT_EQ(vocabulary->byte_tokens()[b], b);
  }
}

TEST(VocabularyTest, OnlyNormalTokensAreSpelled) {
  TestVocabulary test_vocabulary;
  const TokenId normal = test_vocabulary.AddToken("\u0120x");
  const TokenId control = test_vocabulary.AddToken("\u0120y", TokenType::kControl);
  const TokenId foreign = test_vocabulary.AddToken("\u2581x");
  const auto vocabulary = Vocabulary::Make(test_vocabulary.metadata());
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(vocabulary->Bytes(normal), " x");
  EXPECT_EQ(vocabulary->Bytes(control), "\u0120y");
  EXPECT_EQ(vocabulary->Bytes(foreign), "\u2581x");
  EXPECT_TRUE(vocabulary->IsSpelled(normal));
  EXPECT_FALSE(vocabulary->IsSpelled(control));
  EXPECT_FALSE(vocabulary->IsSpelled(foreign));
}

TEST(VocabularyTest, FindsEndTokensByIdAndByText) {
  TestVocabulary vocabulary;
  vocabulary.AddAllBytes();
  const TokenId end_of_turn = vocabulary.AddToken("<|im_end|>");  // called normal
  vocabulary.AddToken("<|im_start|>", TokenType::kControl);
  const TokenId eos = vocabulary.AddToken("<stop>", TokenType::kControl);
  const TokenId text_end = vocabulary.AddToken("<|endoftext|>", TokenType::kControl);
  const TokenId deepseek_end = vocabulary.AddToken("<｜end▁of▁sentence｜>", TokenType::kControl);
  vocabulary.metadata().eos_token = eos;
  vocabulary.metadata().eot_token = eos;
  const auto tokenizer = BpeTokenizer::Make(vocabulary.metadata());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->end_tokens(), ElementsAre(end_of_turn, eos, text_end, deepseek_end));
  EXPECT_TRUE((*tokenizer)->IsSpecial(end_of_turn));
}

TEST(VocabularyTest, RefusesNoTokens) {
  TestVocabulary vocabulary;
  EXPECT_THAT(Refusal(vocabulary), HasSubstr("tokenizer.ggml.tokens: expected 1 to"));
}

TEST(VocabularyTest, RefusesTheSameTextTwice) {
  TestVocabulary vocabulary;
  vocabulary.AddToken("a");
  vocabulary.AddToken("b");
  vocabulary.AddToken("a", TokenType::kControl);
  EXPECT_EQ(Refusal(vocabulary),
            "tokenizer.ggml.tokens[2]: expected a text of its own, got 'a', which is token 0");
}

TEST(VocabularyTest, RefusesTypesThatAreTooFewTooManyOrUnknown) {
  TestVocabulary vocabulary;
  vocabulary.AddToken("a");
  vocabulary.AddToken("b");
  vocabulary.metadata().token_types = {1};
  EXPECT_EQ(Refusal(vocabulary), "tokenizer.ggml.token_type: expected 2 types, one a token, got 1");
  vocabulary.metadata().token_types = {1, 1, 1};
  EXPECT_EQ(Refusal(vocabulary), "tokenizer.ggml.token_type: expected 2 types, one a token, got 3");
  for (const int64_t type : {int64_t{0}, int64_t{6}, int64_t{-1}, int64_t{1} << 40}) {
    vocabulary.metadata().token_types = {1, type};
    EXPECT_EQ(Refusal(vocabulary),
              "tokenizer.ggml.token_type[1]: expected 1 to 5, got " + std::to_string(type));
  }
}

TEST(VocabularyTest, RefusesIdsOutsideOfTheVocabulary) {
  TestVocabulary vocabulary;
  vocabulary.AddToken("a");
  vocabulary.metadata().bos_token = 1;
  EXPECT_EQ(Refusal(vocabulary), "tokenizer.ggml.bos_token_id: expected a token below 1, got 1");
  vocabulary.metadata().bos_token.reset();
  vocabulary.metadata().eos_token = ~uint64_t{0};
  EXPECT_THAT(Refusal(vocabulary),
              HasSubstr("tokenizer.ggml.eos_token_id: expected a token below 1"));
}

TEST(VocabularyTest, RefusesBosWithoutABosToken) {
  TestVocabulary vocabulary;
  vocabulary.AddToken("a");
  vocabulary.metadata().add_bos = true;
  EXPECT_THAT(Refusal(vocabulary), HasSubstr("tokenizer.ggml.bos_token_id: expected a token"));
  vocabulary.metadata().add_bos.reset();
  EXPECT_TRUE(BpeTokenizer::Make(vocabulary.metadata()).ok());
  vocabulary.metadata().pre = "llama-bpe";  // asks for BOS unless the file says otherwise
  EXPECT_THAT(Refusal(vocabulary), HasSubstr("tokenizer.ggml.bos_token_id: expected a token"));
}

TEST(VocabularyTest, RefusesMergesThatAreNotTwoTokens) {
  for (const char* text : {"", " ", "a", "a ", " a", "a  b", "a b c", "ab"}) {
    TestVocabulary vocabulary;
    for (const char* token : {"a", "b", "c", "ab", "abc"}) vocabulary.AddToken(token);
    vocabulary.AddMergeText(text);
    EXPECT_THAT(Refusal(vocabulary),
                HasSubstr("tokenizer.ggml.merges[0]: expected two tokens with a space between"))
        << text;
  }
}

TEST(VocabularyTest, RefusesMergesOfTokensThatAreNotThere) {
  for (const char* text : {"a c", "c b", "b a"}) {
    TestVocabulary vocabulary;
    for (const char* token : {"a", "b", "ab"}) vocabulary.AddToken(token);
    vocabulary.AddMerge("a", "b");
    vocabulary.AddMergeText(text);
    EXPECT_THAT(Refusal(vocabulary),
                HasSubstr("tokenizer.ggml.merges[1]: expected parts and result"))
        << text;
  }
}

TEST(VocabularyTest, RefusesMergesThatMakeAControlToken) {
  TestVocabulary vocabulary;
  vocabulary.AddToken("a");
  vocabulary.AddToken("b");
  vocabulary.AddToken("ab", TokenType::kControl);
  vocabulary.AddMerge("a", "b");
  EXPECT_THAT(Refusal(vocabulary), HasSubstr("with 'ab'"));
}

TEST(VocabularyTest, RefusesAMergeTwice) {
  TestVocabulary vocabulary;
  for (const char* token : {"a", "b", "ab"}) vocabulary.AddToken(token);
  vocabulary.AddMerge("a", "b");
  vocabulary.AddMerge("a", "b");
  EXPECT_THAT(Refusal(vocabulary),
              HasSubstr("tokenizer.ggml.merges[1]: expected a pair of its own"));
}

TEST(VocabularyTest, RefusesOverlongSpecialTokens) {
  TestVocabulary vocabulary;
  vocabulary.AddToken(std::string(257, 'x'), TokenType::kUserDefined);
  EXPECT_THAT(Refusal(vocabulary), HasSubstr("at most 256 bytes, got 257"));
}

TEST(VocabularyTest, RefusesOtherTokenizersByName) {
  TestVocabulary vocabulary;
  vocabulary.AddToken("a");
  vocabulary.metadata().model = "llama";
  auto made = BpeTokenizer::Make(vocabulary.metadata());
  EXPECT_EQ(made.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(made.status().message()),
              HasSubstr("'gpt2' (byte-level BPE), got 'llama'"));
  vocabulary.metadata().model = "gpt2";
  vocabulary.metadata().pre = "default";
  made = BpeTokenizer::Make(vocabulary.metadata());
  EXPECT_EQ(made.status().code(), absl::StatusCode::kUnimplemented);
}

TEST(VocabularyTest, HostileStringsAreEscapedAndCutInMessages) {
  TestVocabulary vocabulary;
  const std::string text = "\n\x1b[31m" + std::string(1000, 'x');
  vocabulary.AddToken(text);
  vocabulary.AddToken(text);
  const std::string message = Refusal(vocabulary);
  EXPECT_LT(message.size(), 200u);
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace tessera
