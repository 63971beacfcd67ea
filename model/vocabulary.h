#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/sampling_params.h"

namespace tessera {

class GgufFile;

// What a model file says of its tokenizer, of the right types and otherwise unchecked. Views into
// the file.
struct TokenizerMetadata {
  std::string_view model;
  std::string_view pre;
  std::vector<std::string_view> tokens;
  std::vector<int64_t> token_types;  // [tokens.size()], or empty: all are normal
  std::vector<std::string_view> merges;
  std::optional<uint64_t> bos_token;
  std::optional<uint64_t> eos_token;
  std::optional<uint64_t> eot_token;
  std::optional<uint64_t> eom_token;
  std::optional<bool> add_bos;
  std::string_view chat_template;
};

absl::StatusOr<TokenizerMetadata> ReadTokenizerMetadata(const GgufFile& file);

// As GGUF numbers them. Type 6, byte, has no meaning in a byte-level vocabulary.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
};

// "left right" of the file: two adjacent tokens become one. Rank is the index in the list: lower
// merges first.
struct BpeMerge {
  TokenId left = 0;
  TokenId right = 0;
  TokenId result = 0;
};

// The tokens and merges of a byte-level BPE, checked: no two tokens have the same text, every merge
// is of existing tokens, no two merges join the same pair, and none has to do with a control token,
// so that plain text never encodes to one. Immutable; owns all its bytes.
class Vocabulary {
 public:
  static absl::StatusOr<Vocabulary> Make(const TokenizerMetadata& metadata);

  int size() const { return static_cast<int>(types_.size()); }

  // A normal token's text is spelled in GPT-2's alphabet, in which each byte is a printable
  // character, and is given in plain bytes here; other tokens, and those with a character outside
  // of the alphabet, are given as they stand in the file.
  std::string_view Bytes(TokenId token) const {
    return std::string_view(bytes_).substr(starts_[token], starts_[token + 1] - starts_[token]);
  }
  TokenType type(TokenId token) const { return types_[token]; }
  bool IsControl(TokenId token) const {
    return types_[token] == TokenType::kControl || types_[token] == TokenType::kUnknown;
  }

  // A normal token that BPE may produce: all of its characters are in the alphabet.
  bool IsSpelled(TokenId token) const { return is_spelled_[token]; }
  // The token of each byte; -1: there is none.
  const std::array<TokenId, 256>& byte_tokens() const { return byte_tokens_; }
  std::span<const BpeMerge> merges() const { return merges_; }

  // Ascending. Those that the file names and those known by their text.
  std::span<const TokenId> end_tokens() const { return end_tokens_; }
  TokenId bos_token() const { return bos_token_; }  // -1: none

 private:
  friend class VocabularyBuilder;
  Vocabulary() = default;

  std::string bytes_;                // all tokens, one after the other
  std::vector<uint64_t> starts_;     // [size() + 1] into bytes_
  std::vector<TokenType> types_;     // [size()]
  std::vector<uint8_t> is_spelled_;  // [size()]
  std::array<TokenId, 256> byte_tokens_{};
  std::vector<BpeMerge> merges_;
  std::vector<TokenId> end_tokens_;
  TokenId bos_token_ = -1;
};

}  // namespace tessera
