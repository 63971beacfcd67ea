#pragma once

#include <bitset>
#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include "base/sampling_params.h"

namespace tessera {

// Finds tokens that are written out in a text: the leftmost, and of those that begin there the
// longest. Immutable; the texts belong to someone else and outlive it.
class SpecialTokenFinder {
 public:
  struct SpecialToken {
    std::string_view text;
    TokenId token = -1;
  };
  struct Match {
    size_t position = 0;
    size_t size_bytes = 0;
    TokenId token = -1;
  };

  SpecialTokenFinder() = default;
  // REQUIRES: no text is empty, no two are the same.
  explicit SpecialTokenFinder(std::vector<SpecialToken> tokens);

  // The first match at or after `begin`. Takes time proportional to the bytes passed over, times
  // the longest token in the worst case.
  std::optional<Match> Find(std::string_view text, size_t begin) const;

 private:
  std::optional<Match> LongestAt(std::string_view text, size_t position) const;

  std::vector<SpecialToken> tokens_;  // ascending by text
  std::bitset<256> first_bytes_;
};

}  // namespace tessera
