#pragma once

#include <deque>
#include <string>
#include <string_view>

#include "model/vocabulary.h"

namespace tessera {

// GPT-2's spelling of bytes, written out independently of the code under test.
inline std::string Spell(std::string_view bytes) {
  std::string text;
  const auto append = [&text](unsigned c) {
    if (c < 0x80) {
      text.push_back(static_cast<char>(c));
    } else {
      text.push_back(static_cast<char>(0xC0 | (c >> 6)));
      text.push_back(static_cast<char>(0x80 | (c & 0x3F)));
    }
  };
  for (const char byte : bytes) {
    const unsigned b = static_cast<unsigned char>(byte);
    if (b <= 0x20) {
      append(0x100 + b);
    } else if (b >= 0x7F && b <= 0xA0) {
      append(0x121 + b - 0x7F);
    } else if (b == 0xAD) {
      append(0x143);
    } else {
      append(b);
    }
  }
  return text;
}

// A vocabulary under construction. Owns the strings that metadata() views.
class TestVocabulary {
 public:
  TestVocabulary() {
    metadata_.model = "gpt2";
    metadata_.pre = "gpt-2";
  }

  TokenId AddToken(std::string_view text, TokenType type = TokenType::kNormal) {
    metadata_.tokens.push_back(strings_.emplace_back(text));
    metadata_.token_types.push_back(static_cast<int64_t>(type));
    return static_cast<TokenId>(metadata_.tokens.size() - 1);
  }

  // Token b is byte b.
  void AddAllBytes() {
    for (int b = 0; b < 256; ++b) AddToken(Spell(std::string(1, static_cast<char>(b))));
  }

  void AddMergeText(std::string_view text) {
    metadata_.merges.push_back(strings_.emplace_back(text));
  }

  void AddMerge(std::string_view left, std::string_view right) {
    AddMergeText(Spell(left) + " " + Spell(right));
  }

  // The merge and the token that it makes.
  TokenId AddMergedToken(std::string_view left, std::string_view right) {
    AddMerge(left, right);
    return AddToken(Spell(std::string(left) + std::string(right)));
  }

  TokenizerMetadata& metadata() { return metadata_; }

 private:
  std::deque<std::string> strings_;
  TokenizerMetadata metadata_;
};

}  // namespace tessera
