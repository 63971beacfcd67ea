#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "model/bpe.h"
#include "model/pretokenizer.h"
#include "model/seeded_hash.h"
#include "model/special_tokens.h"
#include "model/tokenizer.h"
#include "model/vocabulary.h"

namespace tessera {

// The tokenizer of all models we read. Immutable after Make.
class BpeTokenizer final : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<const BpeTokenizer>> Make(
      const TokenizerMetadata& metadata);

  std::vector<TokenId> Encode(std::string_view text, SpecialTokens special) const override;
  std::string_view Bytes(TokenId token) const override { return vocabulary_.Bytes(token); }
  bool IsSpecial(TokenId token) const override { return vocabulary_.IsControl(token); }
  int vocab_size() const override { return vocabulary_.size(); }
  std::span<const TokenId> end_tokens() const override { return vocabulary_.end_tokens(); }
  TokenId bos_token() const override { return vocabulary_.bos_token(); }
  bool adds_bos() const override { return adds_bos_; }
  std::string_view chat_template() const override { return chat_template_; }

 private:
  BpeTokenizer(Vocabulary vocabulary, Pretokenizer pretokenizer, bool adds_bos,
               std::string_view chat_template);

  // Llama-3 takes a piece that is a token as that token, even where merging would not make it.
  bool ignores_merges() const { return pretokenizer_ == Pretokenizer::kLlama3; }
  void IndexWholePieces();
  void EncodePieces(std::string_view text, BpeScratch* scratch, std::vector<TokenId>* tokens) const;

  const Vocabulary vocabulary_;
  const Pretokenizer pretokenizer_;
  const bool adds_bos_;
  const std::string chat_template_;
  const Bpe bpe_;
  // Pieces that are one token, which most pieces of ordinary text are. Views into vocabulary_.
  absl::flat_hash_map<std::string_view, TokenId, SeededStringHash> whole_pieces_;
  size_t max_whole_piece_bytes_ = 0;
  const SpecialTokenFinder user_defined_tokens_;
  const SpecialTokenFinder special_tokens_;  // control and user-defined
};

}  // namespace tessera
