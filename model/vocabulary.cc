#include "model/vocabulary.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/gguf.h"
#include "model/seeded_hash.h"
#include "model/utf8.h"

namespace tessera {
namespace {

constexpr size_t kMaxVocabSize = 1 << 24;

// Tokens that end a turn or a text, by the names that models give them. Files often name only one
// of theirs in the metadata.
constexpr std::string_view kEndTokenTexts[] = {
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<EOT>",
    "_<EOT>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<end_of_utterance>",
    "<|end_of_sentence|>",
    "<\uFF5Cend\u2581of\u2581sentence\uFF5C>",  // DeepSeek
};

std::string Quoted(std::string_view text) {
  constexpr size_t kMaxShown = 40;
  const std::string shown(text.substr(0, kMaxShown));
  return absl::StrCat("'", absl::CHexEscape(shown), text.size() > kMaxShown ? "...'" : "'");
}

std::string ElementName(const char* key, size_t index) {
  return absl::StrCat("tokenizer.ggml.", key, "[", index, "]: ");
}

// GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes, in
// ascending order, for U+0100 and up.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    byte_of_.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool is_printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
      byte_of_[is_printable ? static_cast<char32_t>(byte) : next++] = static_cast<int16_t>(byte);
    }
  }

  // Appends the bytes that `text` spells; false, and nothing, if it spells none.
  bool AppendBytes(std::string_view text, std::string* bytes) const {
    const size_t old_size = bytes->size();
    for (size_t position = 0; position < text.size();) {
      const Utf8Char c = DecodeUtf8(text, position);
      if (!c.valid || c.code_point >= byte_of_.size() || byte_of_[c.code_point] < 0) {
        bytes->resize(old_size);
        return false;
      }
      bytes->push_back(static_cast<char>(byte_of_[c.code_point]));
      position += c.length;
    }
    return !text.empty();
  }

 private:
  std::array<int16_t, 0x144> byte_of_;  // by code point; -1: not in the alphabet
};

absl::StatusOr<std::optional<uint64_t>> OptionalId(const GgufFile& file, const char* key) {
  if (!file.Has(key)) return std::optional<uint64_t>();
  ASSIGN_OR_RETURN(const uint64_t id, file.Unsigned(key));
  return std::optional<uint64_t>(id);
}

}  // namespace

absl::StatusOr<TokenizerMetadata> ReadTokenizerMetadata(const GgufFile& file) {
  TokenizerMetadata metadata;
  ASSIGN_OR_RETURN(metadata.model, file.String("tokenizer.ggml.model"));
  ASSIGN_OR_RETURN(metadata.pre, file.String("tokenizer.ggml.pre"));
  ASSIGN_OR_RETURN(metadata.tokens, file.Strings("tokenizer.ggml.tokens"));
  ASSIGN_OR_RETURN(metadata.merges, file.Strings("tokenizer.ggml.merges"));
  if (file.Has("tokenizer.ggml.token_type")) {
    ASSIGN_OR_RETURN(metadata.token_types, file.Integers("tokenizer.ggml.token_type"));
    if (metadata.token_types.empty() && !metadata.tokens.empty()) {
      return absl::InvalidArgumentError(
          "tokenizer.ggml.token_type: expected one type a token, got none");
    }
  }
  ASSIGN_OR_RETURN(metadata.bos_token, OptionalId(file, "tokenizer.ggml.bos_token_id"));
  ASSIGN_OR_RETURN(metadata.eos_token, OptionalId(file, "tokenizer.ggml.eos_token_id"));
  ASSIGN_OR_RETURN(metadata.eot_token, OptionalId(file, "tokenizer.ggml.eot_token_id"));
  ASSIGN_OR_RETURN(metadata.eom_token, OptionalId(file, "tokenizer.ggml.eom_token_id"));
  if (file.Has("tokenizer.ggml.add_bos_token")) {
    ASSIGN_OR_RETURN(metadata.add_bos, file.Bool("tokenizer.ggml.add_bos_token"));
  }
  if (file.Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(metadata.chat_template, file.String("tokenizer.chat_template"));
  }
  return metadata;
}

// Fills a Vocabulary in the order in which its parts depend on each other.
class VocabularyBuilder {
 public:
  explicit VocabularyBuilder(const TokenizerMetadata& metadata) : metadata_(metadata) {}

  absl::StatusOr<Vocabulary> Build() {
    RETURN_IF_ERROR(IndexTexts());
    RETURN_IF_ERROR(SetTypes());
    RETURN_IF_ERROR(SetEndTokens());
    SpellTokens();
    RETURN_IF_ERROR(ResolveMerges());
    return std::move(vocabulary_);
  }

 private:
  absl::Status IndexTexts() {
    const size_t num_tokens = metadata_.tokens.size();
    if (num_tokens == 0 || num_tokens > kMaxVocabSize) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.tokens: expected 1 to ",
                                                     kMaxVocabSize, " tokens, got ", num_tokens));
    }
    token_of_text_.reserve(num_tokens);
    for (size_t i = 0; i < num_tokens; ++i) {
      const std::string_view text = metadata_.tokens[i];
      const auto [entry, is_new] = token_of_text_.try_emplace(text, static_cast<TokenId>(i));
      if (is_new) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(ElementName("tokens", i), "expected a text of its own, got ", Quoted(text),
                       ", which is token ", entry->second));
    }
    return absl::OkStatus();
  }

  absl::Status SetTypes() {
    const std::vector<int64_t>& types = metadata_.token_types;
    vocabulary_.types_.assign(metadata_.tokens.size(), TokenType::kNormal);
    if (types.empty()) return absl::OkStatus();
    if (types.size() != metadata_.tokens.size()) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.token_type: expected ",
                                                     metadata_.tokens.size(),
                                                     " types, one a token, got ", types.size()));
    }
    for (size_t i = 0; i < types.size(); ++i) {
      if (types[i] < 1 || types[i] > 5) {
        return absl::InvalidArgumentError(
            absl::StrCat(ElementName("token_type", i), "expected 1 to 5, got ", types[i]));
      }
      vocabulary_.types_[i] = static_cast<TokenType>(types[i]);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<TokenId> CheckId(const char* key, std::optional<uint64_t> id) const {
    if (!id.has_value()) return -1;
    if (*id >= metadata_.tokens.size()) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.", key,
                                                     ": expected a token below ",
                                                     metadata_.tokens.size(), ", got ", *id));
    }
    return static_cast<TokenId>(*id);
  }

  absl::Status SetEndTokens() {
    std::vector<TokenId>& ends = vocabulary_.end_tokens_;
    ASSIGN_OR_RETURN(vocabulary_.bos_token_, CheckId("bos_token_id", metadata_.bos_token));
    ASSIGN_OR_RETURN(const TokenId eos, CheckId("eos_token_id", metadata_.eos_token));
    ASSIGN_OR_RETURN(const TokenId eot, CheckId("eot_token_id", metadata_.eot_token));
    ASSIGN_OR_RETURN(const TokenId eom, CheckId("eom_token_id", metadata_.eom_token));
    for (const TokenId token : {eos, eot, eom}) {
      if (token >= 0) ends.push_back(token);
    }
    for (const std::string_view text : kEndTokenTexts) {
      const auto entry = token_of_text_.find(text);
      if (entry != token_of_text_.end()) ends.push_back(entry->second);
    }
    std::sort(ends.begin(), ends.end());
    ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
    // Files exist that call their end tokens normal.
    for (const TokenId token : ends) vocabulary_.types_[token] = TokenType::kControl;
    if (vocabulary_.bos_token_ >= 0) {
      vocabulary_.types_[vocabulary_.bos_token_] = TokenType::kControl;
    }
    return absl::OkStatus();
  }

  void SpellTokens() {
    const ByteAlphabet alphabet;
    vocabulary_.byte_tokens_.fill(-1);
    vocabulary_.starts_.reserve(metadata_.tokens.size() + 1);
    vocabulary_.is_spelled_.reserve(metadata_.tokens.size());
    std::string& bytes = vocabulary_.bytes_;
    for (size_t i = 0; i < metadata_.tokens.size(); ++i) {
      const size_t start = bytes.size();
      vocabulary_.starts_.push_back(start);
      const bool is_spelled = vocabulary_.types_[i] == TokenType::kNormal &&
                              alphabet.AppendBytes(metadata_.tokens[i], &bytes);
      vocabulary_.is_spelled_.push_back(is_spelled ? 1 : 0);
      if (!is_spelled) bytes.append(metadata_.tokens[i]);
      if (is_spelled && bytes.size() - start == 1) {
        vocabulary_.byte_tokens_[static_cast<uint8_t>(bytes[start])] = static_cast<TokenId>(i);
      }
    }
    vocabulary_.starts_.push_back(bytes.size());
  }

  absl::Status ResolveMerges() {
    absl::flat_hash_set<uint64_t, SeededIntegerHash> pairs;
    pairs.reserve(metadata_.merges.size());
    vocabulary_.merges_.reserve(metadata_.merges.size());
    for (size_t i = 0; i < metadata_.merges.size(); ++i) {
      ASSIGN_OR_RETURN(const BpeMerge merge, ResolveMerge(i));
      const uint64_t pair =
          (static_cast<uint64_t>(merge.left) << 32) | static_cast<uint32_t>(merge.right);
      if (!pairs.insert(pair).second) {
        return MergeError(i, "a pair of its own", "one that stands before it");
      }
      vocabulary_.merges_.push_back(merge);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<BpeMerge> ResolveMerge(size_t index) {
    const std::string_view text = metadata_.merges[index];
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == text.size() ||
        text.find(' ', space + 1) != std::string_view::npos) {
      return MergeError(index, "two tokens with a space between", "");
    }
    joined_.assign(text.substr(0, space)).append(text.substr(space + 1));
    BpeMerge merge;
    const std::pair<std::string_view, TokenId*> parts[] = {{text.substr(0, space), &merge.left},
                                                           {text.substr(space + 1), &merge.right},
                                                           {joined_, &merge.result}};
    for (const auto& [part, token] : parts) {
      const auto entry = token_of_text_.find(part);
      if (entry == token_of_text_.end() || !vocabulary_.is_spelled_[entry->second]) {
        return MergeError(index, "parts and result to be normal tokens", Quoted(part));
      }
      *token = entry->second;
    }
    return merge;
  }

  absl::Status MergeError(size_t index, const char* expected, const std::string& actual) const {
    return absl::InvalidArgumentError(
        absl::StrCat(ElementName("merges", index), "expected ", expected, ", got ",
                     Quoted(metadata_.merges[index]), actual.empty() ? "" : " with ", actual));
  }

  const TokenizerMetadata& metadata_;
  Vocabulary vocabulary_;
  absl::flat_hash_map<std::string_view, TokenId, SeededStringHash> token_of_text_;
  std::string joined_;
};

absl::StatusOr<Vocabulary> Vocabulary::Make(const TokenizerMetadata& metadata) {
  return VocabularyBuilder(metadata).Build();
}

}  // namespace tessera
