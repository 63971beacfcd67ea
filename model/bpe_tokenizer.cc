#include "model/bpe_tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "model/gguf.h"

namespace tessera {
namespace {

constexpr size_t kMaxSpecialTokenBytes = 256;

bool IsFoundInText(const Vocabulary& vocabulary, TokenId token, SpecialTokens special) {
  if (vocabulary.Bytes(token).empty()) return false;
  return vocabulary.type(token) == TokenType::kUserDefined ||
         (special == SpecialTokens::kParse && vocabulary.IsControl(token));
}

SpecialTokenFinder MakeFinder(const Vocabulary& vocabulary, SpecialTokens special) {
  std::vector<SpecialTokenFinder::SpecialToken> tokens;
  for (TokenId token = 0; token < vocabulary.size(); ++token) {
    if (!IsFoundInText(vocabulary, token, special)) continue;
    tokens.push_back({.text = vocabulary.Bytes(token), .token = token});
  }
  return SpecialTokenFinder(std::move(tokens));
}

// Bounds the time that finding them may take.
absl::Status CheckSpecialTokenSizes(const Vocabulary& vocabulary) {
  for (TokenId token = 0; token < vocabulary.size(); ++token) {
    const size_t size_bytes = vocabulary.Bytes(token).size();
    if (size_bytes <= kMaxSpecialTokenBytes) continue;
    if (!IsFoundInText(vocabulary, token, SpecialTokens::kParse)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.ggml.tokens[", token, "]: expected a special token of at most ",
                     kMaxSpecialTokenBytes, " bytes, got ", size_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const GgufFile& file) {
  ASSIGN_OR_RETURN(const TokenizerMetadata metadata, ReadTokenizerMetadata(file));
  ASSIGN_OR_RETURN(std::unique_ptr<const Tokenizer> tokenizer, BpeTokenizer::Make(metadata));
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<const BpeTokenizer>> BpeTokenizer::Make(
    const TokenizerMetadata& metadata) {
  if (metadata.model != "gpt2") {
    return absl::UnimplementedError(
        absl::StrCat("tokenizer.ggml.model: expected 'gpt2' (byte-level BPE), got '",
                     std::string(metadata.model), "'"));
  }
  ASSIGN_OR_RETURN(const Pretokenizer pretokenizer, FindPretokenizer(std::string(metadata.pre)));
  ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::Make(metadata));
  RETURN_IF_ERROR(CheckSpecialTokenSizes(vocabulary));
  const bool adds_bos = metadata.add_bos.value_or(pretokenizer == Pretokenizer::kLlama3);
  if (adds_bos && vocabulary.bos_token() < 0) {
    return absl::InvalidArgumentError(
        "tokenizer.ggml.bos_token_id: expected a token, as add_bos_token is true; got none");
  }
  return std::unique_ptr<const BpeTokenizer>(
      new BpeTokenizer(std::move(vocabulary), pretokenizer, adds_bos, metadata.chat_template));
}

BpeTokenizer::BpeTokenizer(Vocabulary vocabulary, Pretokenizer pretokenizer, bool adds_bos,
                           std::string_view chat_template)
    : vocabulary_(std::move(vocabulary)),
      pretokenizer_(pretokenizer),
      adds_bos_(adds_bos),
      chat_template_(chat_template),
      bpe_(vocabulary_),
      user_defined_tokens_(MakeFinder(vocabulary_, SpecialTokens::kPlainText)),
      special_tokens_(MakeFinder(vocabulary_, SpecialTokens::kParse)) {
  IndexWholePieces();
}

void BpeTokenizer::IndexWholePieces() {
  BpeScratch scratch;
  std::vector<TokenId> merged;
  whole_pieces_.reserve(vocabulary_.size());
  for (TokenId token = 0; token < vocabulary_.size(); ++token) {
    if (!vocabulary_.IsSpelled(token)) continue;
    const std::string_view bytes = vocabulary_.Bytes(token);
    merged.clear();
    if (!ignores_merges()) bpe_.Encode(bytes, &scratch, &merged);
    const bool is_made_by_merging = merged.size() == 1 && merged[0] == token;
    if (!ignores_merges() && !is_made_by_merging) continue;
    whole_pieces_.emplace(bytes, token);
    max_whole_piece_bytes_ = std::max(max_whole_piece_bytes_, bytes.size());
  }
}

std::vector<TokenId> BpeTokenizer::Encode(std::string_view text, SpecialTokens special) const {
  const SpecialTokenFinder& finder =
      special == SpecialTokens::kParse ? special_tokens_ : user_defined_tokens_;
  BpeScratch scratch;
  std::vector<TokenId> tokens;
  size_t position = 0;
  while (const std::optional<SpecialTokenFinder::Match> match = finder.Find(text, position)) {
    EncodePieces(text.substr(position, match->position - position), &scratch, &tokens);
    tokens.push_back(match->token);
    position = match->position + match->size_bytes;
  }
  EncodePieces(text.substr(position), &scratch, &tokens);
  return tokens;
}

void BpeTokenizer::EncodePieces(std::string_view text, BpeScratch* scratch,
                                std::vector<TokenId>* tokens) const {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = FindPieceEnd(pretokenizer_, text, begin);
    const std::string_view piece = text.substr(begin, end - begin);
    begin = end;
    if (piece.size() <= max_whole_piece_bytes_) {
      const auto whole = whole_pieces_.find(piece);
      if (whole != whole_pieces_.end()) {
        tokens->push_back(whole->second);
        continue;
      }
    }
    bpe_.Encode(piece, scratch, tokens);
  }
}

}  // namespace tessera
