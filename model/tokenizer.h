#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/sampling_params.h"

namespace tessera {

class GgufFile;

// Whether "<|im_start|>" in a text is that special token or eleven plain characters. Text from
// users is parsed as plain unless the request asks. Tokens that the file calls user-defined carry
// no control and are found in the text either way.
enum class SpecialTokens : uint8_t { kPlainText, kParse };

// Byte-level BPE of a GGUF vocabulary ("tokenizer.ggml.model" = gpt2) with one of the
// pre-tokenizers of SmolLM, GPT-2, Llama-3 and Qwen2. Immutable after Load and shared by threads.
// Encoding takes time linear in the text, also on hostile text.
class Tokenizer {
 public:
  // On a vocabulary it cannot represent: NOT_FOUND or INVALID_ARGUMENT with the field, expected and
  // actual; UNIMPLEMENTED for another kind of tokenizer or pre-tokenizer, with those supported.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Load(const GgufFile& file);
  virtual ~Tokenizer() = default;

  // Appends nothing at the ends (no BOS). `text` may hold any bytes, and its tokens' Bytes are the
  // text again, except that a byte that the vocabulary has no token for encodes as U+FFFD. (SmolLM2
  // lacks six control characters and fifteen bytes that begin no assigned character.) REQUIRES:
  // text.size() < 2^31.
  virtual std::vector<TokenId> Encode(std::string_view text, SpecialTokens special) const = 0;

  // The bytes of a token, not necessarily whole UTF-8 characters. Special tokens give their own
  // text. REQUIRES: 0 <= token < vocab_size().
  virtual std::string_view Bytes(TokenId token) const = 0;
  virtual bool IsSpecial(TokenId token) const = 0;  // control tokens: left out of generated text

  virtual int vocab_size() const = 0;
  virtual std::span<const TokenId> end_tokens()
      const = 0;                                       // EOS, end of turn: they end a generation
  virtual TokenId bos_token() const = 0;               // -1: none
  virtual bool adds_bos() const = 0;                   // the file asks for BOS before a prompt
  virtual std::string_view chat_template() const = 0;  // Jinja source, or empty
};

}  // namespace tessera
