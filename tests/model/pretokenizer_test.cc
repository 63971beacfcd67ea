#include "model/pretokenizer.h"

#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "model/unicode.h"
#include "nlohmann/json.hpp"

namespace tessera {
namespace {

std::vector<std::string> Cut(Pretokenizer pretokenizer, std::string_view text) {
  std::vector<std::string> pieces;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = FindPieceEnd(pretokenizer, text, begin);
    EXPECT_GT(end, begin);
    EXPECT_LE(end, text.size());
    if (end <= begin || end > text.size()) break;
    pieces.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return pieces;
}

using Pieces = std::vector<std::string>;

// Goldens cut by the regular expressions themselves: tests/golden/make_tokenizer_goldens.py.
TEST(PretokenizerTest, CutsAsTheRegularExpressionsDo) {
  const std::string path = TESSERA_GOLDEN_DIR "/tokenizer/pieces.json";
  std::ifstream file(path);
  ASSERT_TRUE(file) << path;
  const nlohmann::json rows = nlohmann::json::parse(file);
  ASSERT_GT(rows.size(), 400u);
  for (const nlohmann::json& row : rows) {
    const std::string text = row["text"];
    for (const char* name : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
      std::vector<size_t> sizes;
      for (const std::string& piece : Cut(*FindPretokenizer(name), text)) {
        sizes.push_back(piece.size());
      }
      ASSERT_EQ(sizes, row[name].get<std::vector<size_t>>()) << name << " " << row["text"];
    }
  }
}

TEST(PretokenizerTest, TheFourKindsDifferOnNumbersSpacesAndNewlines) {
  const std::string text = "ab  123\n\n!x";
  EXPECT_EQ(Cut(Pretokenizer::kGpt2, text), (Pieces{"ab", " ", " 123", "\n", "\n", "!", "x"}));
  EXPECT_EQ(Cut(Pretokenizer::kSmolLm, text),
            (Pieces{"ab", "  ", "1", "2", "3", "\n", "\n", "!", "x"}));
  EXPECT_EQ(Cut(Pretokenizer::kLlama3, text), (Pieces{"ab", " ", " ", "123", "\n\n", "!x"}));
  EXPECT_EQ(Cut(Pretokenizer::kQwen2, text), (Pieces{"ab", " ", " ", "1", "2", "3", "\n\n", "!x"}));
}

TEST(PretokenizerTest, InvalidBytesAreCharactersOfNoClass) {
  EXPECT_EQ(Cut(Pretokenizer::kGpt2, "ab\xFF\xC3 \xE2\x82"),
            (Pieces{"ab", "\xFF\xC3", " \xE2\x82"}));
  EXPECT_EQ(Cut(Pretokenizer::kLlama3, "\xFFoo \x80\n"), (Pieces{"\xFFoo", " \x80\n"}));
  EXPECT_EQ(Cut(Pretokenizer::kGpt2, "a\xED\xA0\x80z"), (Pieces{"a", "\xED\xA0\x80", "z"}));
}

TEST(PretokenizerTest, RefusesOtherNamesWithTheSupportedOnes) {
  const auto found = FindPretokenizer("tekken");
  EXPECT_EQ(found.status().code(), absl::StatusCode::kUnimplemented);
  const std::string message(found.status().message());
  for (const char* part :
       {"tokenizer.ggml.pre", "tekken", "gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  EXPECT_FALSE(FindPretokenizer("").ok());
  EXPECT_EQ(*FindPretokenizer("llama3"), Pretokenizer::kLlama3);
  EXPECT_EQ(*FindPretokenizer("deepseek-r1-qwen"), Pretokenizer::kQwen2);
}

TEST(CharClassTest, RangesAreAscendingAndTheTableAgreesWithThem) {
  const CharClassTable& table = CharClassTable::Get();
  char32_t next = 0;
  size_t num_letters = 0;
  size_t num_numbers = 0;
  size_t num_spaces = 0;
  for (int i = 0; i < kNumUnicodeRanges; ++i) {
    const UnicodeRange& range = kUnicodeRanges[i];
    ASSERT_GE(range.first, next);
    ASSERT_GE(range.last, range.first);
    for (; next < range.first; ++next) ASSERT_EQ(table.ClassOf(next), CharClass::kOther);
    for (; next <= range.last; ++next) ASSERT_EQ(table.ClassOf(next), range.char_class);
    const size_t size = range.last - range.first + 1;
    if (range.char_class == CharClass::kLetter) num_letters += size;
    if (range.char_class == CharClass::kNumber) num_numbers += size;
    if (range.char_class == CharClass::kSpace) num_spaces += size;
  }
  for (; next <= 0x10FFFF; ++next) ASSERT_EQ(table.ClassOf(next), CharClass::kOther);
  // Counts of DerivedGeneralCategory.txt and PropList.txt, Unicode 16.0.0.
  EXPECT_EQ(num_letters, 141028u);
  EXPECT_EQ(num_numbers, 1911u);
  EXPECT_EQ(num_spaces, 25u);
}

}  // namespace
}  // namespace tessera
