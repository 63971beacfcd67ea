#pragma once

#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/tokenizer.h"

namespace tessera {

// Detokenizes by a table of pieces given one by one; encodes byte by byte. Tokens 0 to 255 are the
// bytes.
class TableTokenizer final : public Tokenizer {
 public:
  TableTokenizer() {
    for (int byte = 0; byte < 256; ++byte) Add(std::string(1, static_cast<char>(byte)));
  }

  TokenId Add(std::string piece) {
    pieces_.push_back(std::move(piece));
    return static_cast<TokenId>(pieces_.size() - 1);
  }
  TokenId AddSpecial(std::string piece) {
    const TokenId token = Add(std::move(piece));
    special_.insert(token);
    return token;
  }

  std::vector<TokenId> Encode(std::string_view text, SpecialTokens) const override {
    std::vector<TokenId> tokens;
    for (const char byte : text) tokens.push_back(static_cast<uint8_t>(byte));
    return tokens;
  }
  std::string_view Bytes(TokenId token) const override { return pieces_.at(token); }
  bool IsSpecial(TokenId token) const override { return special_.contains(token); }
  int vocab_size() const override { return static_cast<int>(pieces_.size()); }
  std::span<const TokenId> end_tokens() const override { return {}; }
  TokenId bos_token() const override { return -1; }
  bool adds_bos() const override { return false; }
  std::string_view chat_template() const override { return {}; }

 private:
  std::vector<std::string> pieces_;
  std::set<TokenId> special_;
};

}  // namespace tessera
