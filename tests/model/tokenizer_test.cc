#include "model/tokenizer.h"

#include <cstdlib>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/bpe_tokenizer.h"
#include "model/gguf.h"
#include "model/utf8.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/tokenizer_fuzz.h"
#include "tests/model/tokenizer_fixture.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Tokens = std::vector<TokenId>;

std::string Decode(const Tokenizer& tokenizer, const Tokens& tokens) {
  std::string text;
  for (const TokenId token : tokens) text += tokenizer.Bytes(token);
  return text;
}

std::unique_ptr<const BpeTokenizer> Make(TestVocabulary& vocabulary) {
  auto made = BpeTokenizer::Make(vocabulary.metadata());
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

// Pieces of everything that tokenizers care about, and of bytes that are no text.
std::string RandomText(std::mt19937* random, int num_parts) {
  static const std::string kParts[] = {
      "the ", "Hello",    " world", "123",    " 7",       "\n",         "  ",           "\t",
      "'s",   "'LL",      "!",      "\u00e9", "\u4f60",   "\U0001f600", "<|im_start|>", "<|im",
      "\xFF", "\xE2\x82", "\x80",   "\xC0",   "aaaaaaaa", "zzz"};
  std::string text;
  for (int i = 0; i < num_parts; ++i) {
    const size_t pick = (*random)() % (std::size(kParts) + 4);
    if (pick < std::size(kParts)) {
      text += kParts[pick];
    } else {
      text.push_back(static_cast<char>((*random)() % 256));
    }
  }
  return text;
}

TEST(TokenizerTest, SpecialTokensAreParsedOnlyWhereAsked) {
  TestVocabulary vocabulary;
  vocabulary.AddAllBytes();
  const TokenId start = vocabulary.AddToken("<s>", TokenType::kControl);
  const auto tokenizer = Make(vocabulary);
  EXPECT_THAT(tokenizer->Encode("a<s>b", SpecialTokens::kParse), ElementsAre('a', start, 'b'));
  EXPECT_THAT(tokenizer->Encode("a<s>b", SpecialTokens::kPlainText),
              ElementsAre('a', '<', 's', '>', 'b'));
  EXPECT_THAT(tokenizer->Encode("<s><s", SpecialTokens::kParse), ElementsAre(start, '<', 's'));
  EXPECT_THAT(tokenizer->Encode("<<s>", SpecialTokens::kParse), ElementsAre('<', start));
  EXPECT_THAT(tokenizer->Encode("", SpecialTokens::kParse), IsEmpty());
}

TEST(TokenizerTest, TheLeftmostThenLongestSpecialTokenIsTaken) {
  TestVocabulary vocabulary;
  vocabulary.AddAllBytes();
  const TokenId a = vocabulary.AddToken("<a", TokenType::kControl);
  const TokenId abc = vocabulary.AddToken("<abc", TokenType::kControl);
  const TokenId bcd = vocabulary.AddToken("bcde", TokenType::kControl);
  const auto tokenizer = Make(vocabulary);
  EXPECT_THAT(tokenizer->Encode("<abcde", SpecialTokens::kParse), ElementsAre(abc, 'd', 'e'));
  EXPECT_THAT(tokenizer->Encode("<abde", SpecialTokens::kParse), ElementsAre(a, 'b', 'd', 'e'));
  EXPECT_THAT(tokenizer->Encode("<a", SpecialTokens::kParse), ElementsAre(a));
  EXPECT_THAT(tokenizer->Encode("bcdebcd", SpecialTokens::kParse), ElementsAre(bcd, 'b', 'c', 'd'));
}

TEST(TokenizerTest, UserDefinedTokensAreFoundInPlainText) {
  TestVocabulary vocabulary;
  vocabulary.AddAllBytes();
  const TokenId think = vocabulary.AddToken("<think>", TokenType::kUserDefined);
  const auto tokenizer = Make(vocabulary);
  EXPECT_THAT(tokenizer->Encode("a<think>", SpecialTokens::kPlainText), ElementsAre('a', think));
  EXPECT_FALSE(tokenizer->IsSpecial(think));
}

TEST(TokenizerTest, Llama3TakesAPieceThatIsATokenEvenIfMergingWouldNotMakeIt) {
  TestVocabulary vocabulary;
  vocabulary.AddAllBytes();
  const TokenId ab = vocabulary.AddMergedToken("a", "b");
  const TokenId abc = vocabulary.AddToken("abc");
  EXPECT_THAT(Make(vocabulary)->Encode("abc", SpecialTokens::kPlainText), ElementsAre(ab, 'c'));
  vocabulary.metadata().pre = "llama-bpe";
  vocabulary.metadata().add_bos = false;
  EXPECT_THAT(Make(vocabulary)->Encode("abc", SpecialTokens::kPlainText), ElementsAre(abc));
}

TEST(TokenizerTest, EveryTextDecodesToItself) {
  std::mt19937 random(1);
  for (const char* pre : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    TestVocabulary vocabulary;
    vocabulary.AddAllBytes();
    vocabulary.AddMergedToken("a", "a");
    vocabulary.AddMergedToken("\xE2", "\x82");
    vocabulary.AddMergedToken("t", "h");
    vocabulary.AddMergedToken("th", "e");
    vocabulary.AddToken("<|im_start|>", TokenType::kControl);
    vocabulary.metadata().pre = pre;
    vocabulary.metadata().add_bos = false;
    const auto tokenizer = Make(vocabulary);
    for (int i = 0; i < 2000; ++i) {
      const std::string text = RandomText(&random, i % 40);
      for (const SpecialTokens special : {SpecialTokens::kPlainText, SpecialTokens::kParse}) {
        ASSERT_EQ(Decode(*tokenizer, tokenizer->Encode(text, special)), text) << pre;
      }
    }
  }
}

TEST(TokenizerTest, AnyVocabularyAndTextKeepTheInvariants) {
  std::mt19937 random(20240601);
  int num_tokenizers = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string bytes(1 + random() % 200, '\0');
    // Few distinct letters, so that merges meet their tokens.
    for (char& byte : bytes) {
      const uint64_t value = random();
      byte = static_cast<char>(value % 4 == 0 ? value >> 8 : "abc<> 1\n"[(value >> 8) % 8]);
    }
    bytes[0] = static_cast<char>(random());
    const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
    if (FuzzTokenizer(data, bytes.size())) ++num_tokenizers;
  }
  EXPECT_GT(num_tokenizers, 1000) << "too few vocabularies are good for this to prove anything";
}

// The default model's own vocabulary. Skipped without TESSERA_MODEL, which scripts/test sets.
class DefaultModelTokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("TESSERA_MODEL");
    if (path == nullptr || *path == '\0') GTEST_SKIP() << "TESSERA_MODEL is not set";
    auto file = GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
    auto tokenizer = Tokenizer::Load(*file_);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  std::unique_ptr<const GgufFile> file_;
  std::unique_ptr<const Tokenizer> tokenizer_;
};

TEST_F(DefaultModelTokenizerTest, ReadsTheFilesMetadata) {
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  EXPECT_THAT(tokenizer_->end_tokens(), ElementsAre(0, 2));
  EXPECT_EQ(tokenizer_->bos_token(), 1);
  EXPECT_FALSE(tokenizer_->adds_bos());
  EXPECT_EQ(tokenizer_->Bytes(1), "<|im_start|>");
  EXPECT_TRUE(tokenizer_->IsSpecial(16));
  EXPECT_FALSE(tokenizer_->IsSpecial(17));
  EXPECT_EQ(tokenizer_->chat_template().substr(0, 30), "{% for message in messages %}{");
}

// ids.json comes from PyPI `tokenizers`: tests/golden/make_tokenizer_goldens.py. The other kinds
// are run on this vocabulary too.
TEST_F(DefaultModelTokenizerTest, EncodesAsAnIndependentImplementation) {
  const std::string path = TESSERA_GOLDEN_DIR "/tokenizer/ids.json";
  std::ifstream json(path);
  ASSERT_TRUE(json) << path;
  const nlohmann::json rows = nlohmann::json::parse(json);
  ASSERT_GT(rows.size(), 60u);
  auto metadata = ReadTokenizerMetadata(*file_);
  ASSERT_TRUE(metadata.ok());
  for (const char* pre : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    metadata->pre = pre;
    const auto tokenizer = BpeTokenizer::Make(*metadata);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const nlohmann::json& row : rows) {
      const std::string text = row["text"];
      const Tokens tokens = (*tokenizer)->Encode(text, SpecialTokens::kPlainText);
      ASSERT_EQ(tokens, row[pre].get<Tokens>()) << pre << " " << row["text"];
      EXPECT_EQ(Decode(**tokenizer, tokens), text);
    }
  }
  for (const nlohmann::json& row : rows) {
    const Tokens tokens = tokenizer_->Encode(row["text"].get<std::string>(), SpecialTokens::kParse);
    ASSERT_EQ(tokens, row["smollm-special"].get<Tokens>()) << row["text"];
  }
}

TEST_F(DefaultModelTokenizerTest, TextDecodesToItselfUpToTheBytesTheVocabularyLacks) {
  std::string missing;
  for (int b = 0; b < 256; ++b) {
    const std::string byte(1, static_cast<char>(b));
    const Tokens tokens = tokenizer_->Encode(byte, SpecialTokens::kPlainText);
    if (Decode(*tokenizer_, tokens) != byte) missing += byte;
  }
  EXPECT_EQ(missing,
            "\x04\x06\x13\x14\x16\x1d\xC0\xC1\xF1\xF2\xF5\xF6\xF7\xF8\xF9\xFA\xFB\xFC\xFD\xFE\xFF");
  std::mt19937 random(2);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = RandomText(&random, i % 50);
    std::string expected;
    for (const char byte : text) {
      const bool is_missing = missing.find(byte) != std::string::npos;
      expected += is_missing ? std::string(kReplacementCharacter) : std::string(1, byte);
    }
    ASSERT_EQ(Decode(*tokenizer_, tokenizer_->Encode(text, SpecialTokens::kPlainText)), expected);
  }
}

TEST_F(DefaultModelTokenizerTest, PlainTextNeverEncodesToASpecialToken) {
  for (TokenId token = 0; token < tokenizer_->vocab_size(); ++token) {
    if (!tokenizer_->IsSpecial(token)) continue;
    for (const TokenId t :
         tokenizer_->Encode(tokenizer_->Bytes(token), SpecialTokens::kPlainText)) {
      ASSERT_FALSE(tokenizer_->IsSpecial(t)) << token;
    }
  }
}

TEST_F(DefaultModelTokenizerTest, HostileMegabytesDecodeToThemselves) {
  for (const std::string_view unit :
       {"a", " ", "\n", "7", "ab", "\xE4\xBD\xA0", "'s", "<|im_", "\x80"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    ASSERT_EQ(Decode(*tokenizer_, tokenizer_->Encode(text, SpecialTokens::kParse)), text) << unit;
  }
}

TEST_F(DefaultModelTokenizerTest, ThreadsShareOneTokenizer) {
  const std::string text =
      "Threads share it; 123 caf\u00e9s \u4f60\u597d." + std::string(5000, 'a');
  const Tokens expected = tokenizer_->Encode(text, SpecialTokens::kParse);
  std::vector<std::thread> threads;
  std::vector<int> num_equal(4, 0);
  for (int& count : num_equal) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        if (tokenizer_->Encode(text, SpecialTokens::kParse) == expected) ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(num_equal, ElementsAre(50, 50, 50, 50));
}

}  // namespace
}  // namespace tessera
