#include "model/utf8.h"

#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

std::string Assemble(std::string_view bytes) {
  Utf8Stream stream;
  std::string text = stream.Append(bytes);
  return text + stream.Flush();
}

std::string AssembleByteByByte(std::string_view bytes) {
  Utf8Stream stream;
  std::string text;
  for (const char byte : bytes) {
    text += stream.Append(std::string_view(&byte, 1));
    EXPECT_LE(stream.num_held_bytes(), 3u);
  }
  return text + stream.Flush();
}

std::string Encode(char32_t c) {
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  const auto lead = [c](int mark, int shift) { return static_cast<char>(mark | (c >> shift)); };
  if (c < 0x80) return {lead(0, 0)};
  if (c < 0x800) return {lead(0xC0, 6), tail(0)};
  if (c < 0x10000) return {lead(0xE0, 12), tail(6), tail(0)};
  return {lead(0xF0, 18), tail(12), tail(6), tail(0)};
}

// Table 3-7 by its definition: decode with plain arithmetic, then forbid surrogates, overlong forms
// and code points above U+10FFFF.
bool IsWellFormedCharacter(std::string_view bytes) {
  static constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  if (bytes.size() == 1) return byte(0) < 0x80;
  if (bytes.empty() || bytes.size() > 4) return false;
  const unsigned mark = (0xF00u >> bytes.size()) & 0xFF;
  const unsigned mask = (0xFF80u >> bytes.size()) & 0xFF;
  if ((byte(0) & mask) != mark) return false;
  char32_t code_point = byte(0) & ~mask;
  for (size_t i = 1; i < bytes.size(); ++i) {
    if ((byte(i) & 0xC0) != 0x80) return false;
    code_point = code_point * 64 + (byte(i) & 0x3F);
  }
  return code_point >= kSmallest[bytes.size()] && code_point <= 0x10FFFF &&
         (code_point < 0xD800 || code_point > 0xDFFF);
}

TEST(Utf8Test, EveryTwoAndThreeByteStringIsJudgedByTheDefinition) {
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      const std::string two = {static_cast<char>(first), static_cast<char>(second)};
      ASSERT_EQ(IsValidUtf8(two), IsWellFormedCharacter(two) || (first < 0x80 && second < 0x80));
      if (first < 0xE0) continue;
      for (const int third : {0x00, 0x7F, 0x80, 0x9F, 0xBF, 0xC0, 0xFF}) {
        const std::string three = two + static_cast<char>(third);
        ASSERT_EQ(IsValidUtf8(three), IsWellFormedCharacter(three)) << first << " " << second;
        const std::string four = three + "\x80";
        ASSERT_EQ(IsValidUtf8(four), IsWellFormedCharacter(four)) << first << " " << second;
      }
    }
  }
}

TEST(Utf8Test, DecodesCodePoints) {
  EXPECT_EQ(DecodeUtf8("A", 0).code_point, U'A');
  EXPECT_EQ(DecodeUtf8("\xC3\xA9", 0).code_point, U'\u00E9');
  EXPECT_EQ(DecodeUtf8("x\xE2\x82\xAC", 1).code_point, U'\u20AC');
  EXPECT_EQ(DecodeUtf8("\xF4\x8F\xBF\xBF", 0).code_point, U'\U0010FFFF');
  const Utf8Char cut = DecodeUtf8("\xE2\x82", 0);
  EXPECT_FALSE(cut.valid);
  EXPECT_EQ(cut.length, 1);
}

TEST(Utf8StreamTest, PassesEveryCodePointThrough) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    const std::string bytes = Encode(c);
    ASSERT_EQ(AssembleByteByByte(bytes), bytes) << static_cast<uint32_t>(c);
    ASSERT_EQ(DecodeUtf8(bytes, 0).code_point, c);
  }
}

// The Unicode Standard's own examples, tables 3-8 to 3-11.
TEST(Utf8StreamTest, ReplacesMaximalSubparts) {
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(Assemble("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Assemble("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Assemble("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(Assemble("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}

TEST(Utf8StreamTest, EmitsACharacterWithItsLastByteAndHoldsItBefore) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Append("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.Append("\x98"), "");
  EXPECT_EQ(stream.num_held_bytes(), 3u);
  EXPECT_EQ(stream.Append("\x80z"), "\xF0\x9F\x98\x80z");
  EXPECT_EQ(stream.num_held_bytes(), 0u);
  EXPECT_EQ(stream.Flush(), "");
}

TEST(Utf8StreamTest, FlushReplacesTheUnfinishedCharacterOnce) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Append("\xF0\x9F\x98"), "");
  EXPECT_EQ(stream.Flush(), kReplacementCharacter);
  EXPECT_EQ(stream.Flush(), "");
  EXPECT_EQ(stream.Append("ok"), "ok");
}

TEST(Utf8StreamTest, OutputDoesNotDependOnTheCutsAndIsValid) {
  // Bytes at the edges of table 3-7, so that nearly every state and transition is met.
  static constexpr unsigned char kEdges[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0,
                                             0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED,
                                             0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF};
  uint32_t random = 1;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    for (int i = 0; i < 12; ++i) {
      random = random * 1664525u + 1013904223u;
      bytes.push_back(static_cast<char>(kEdges[(random >> 16) % sizeof(kEdges)]));
    }
    const std::string whole = Assemble(bytes);
    ASSERT_TRUE(IsValidUtf8(whole));
    ASSERT_EQ(AssembleByteByByte(bytes), whole);
    Utf8Stream stream;
    const size_t cut = (random >> 8) % bytes.size();
    std::string two_parts = stream.Append(bytes.substr(0, cut));
    two_parts += stream.Append(bytes.substr(cut));
    ASSERT_EQ(two_parts + stream.Flush(), whole);
  }
}

}  // namespace
}  // namespace tessera
