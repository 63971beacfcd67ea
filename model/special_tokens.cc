#include "model/special_tokens.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace tessera {

SpecialTokenFinder::SpecialTokenFinder(std::vector<SpecialToken> tokens)
    : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const SpecialToken& a, const SpecialToken& b) { return a.text < b.text; });
  for (const SpecialToken& token : tokens_) first_bytes_.set(static_cast<uint8_t>(token.text[0]));
}

std::optional<SpecialTokenFinder::Match> SpecialTokenFinder::Find(std::string_view text,
                                                                  size_t begin) const {
  if (tokens_.empty()) return std::nullopt;
  for (size_t position = begin; position < text.size(); ++position) {
    if (!first_bytes_[static_cast<uint8_t>(text[position])]) continue;
    if (const std::optional<Match> match = LongestAt(text, position)) return match;
  }
  return std::nullopt;
}

// Narrows [first, last) to the tokens that begin with text[position, position + length): a token of
// exactly that length is the first of them.
std::optional<SpecialTokenFinder::Match> SpecialTokenFinder::LongestAt(std::string_view text,
                                                                       size_t position) const {
  std::optional<Match> longest;
  auto first = tokens_.begin();
  auto last = tokens_.end();
  for (size_t length = 0; position + length < text.size() && first != last; ++length) {
    const uint8_t byte = static_cast<uint8_t>(text[position + length]);
    const auto byte_of = [length](const SpecialToken& token) {
      return static_cast<uint8_t>(token.text[length]);
    };
    first = std::partition_point(first, last, [&](const auto& t) { return byte_of(t) < byte; });
    last = std::partition_point(first, last, [&](const auto& t) { return byte_of(t) == byte; });
    if (first == last || first->text.size() > length + 1) continue;
    longest = {.position = position, .size_bytes = length + 1, .token = first->token};
    ++first;
  }
  return longest;
}

}  // namespace tessera
