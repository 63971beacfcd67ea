#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera {

// How text is cut into pieces before BPE, which never merges across two pieces. Each is defined by
// regular expressions, matched from left to right:
//
//   kGpt2     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   kSmolLm   every \p{N} by itself, then kGpt2 on what is between
//   kLlama3   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
//             ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+     (a space before the first ?)
//   kQwen2    kLlama3 with \p{N} for \p{N}{1,3}
//
// in Unicode 16. A byte of no UTF-8 character counts as a character of none of the classes. Text is
// taken as it is: Qwen2's own pipeline brings text to NFC first, but a GGUF file states no
// normalizer and decode(encode(text)) is to be the text, so that is left to who sends it.
enum class Pretokenizer : uint8_t { kGpt2, kSmolLm, kLlama3, kQwen2 };

// By "tokenizer.ggml.pre". UNIMPLEMENTED with the supported names for any other.
absl::StatusOr<Pretokenizer> FindPretokenizer(const std::string& name);

// The end of the piece that begins at `begin`, which is 0 or the end of the piece before. All
// pieces together take time linear in the text. REQUIRES: begin < text.size().
size_t FindPieceEnd(Pretokenizer pretokenizer, std::string_view text, size_t begin);

}  // namespace tessera
