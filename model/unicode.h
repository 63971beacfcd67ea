#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace tessera {

// The classes that pre-tokenizers tell apart: \p{L}, \p{N}, \s (White_Space) and the rest.
enum class CharClass : uint8_t { kOther, kLetter, kNumber, kSpace };

struct UnicodeRange {
  char32_t first = 0;
  char32_t last = 0;  // inclusive
  CharClass char_class = CharClass::kOther;
};

// Ascending, disjoint; what no range covers is kOther. Generated: scripts/make-unicode-tables.
extern const UnicodeRange kUnicodeRanges[];
extern const int kNumUnicodeRanges;

struct ClassifiedChar {
  CharClass char_class = CharClass::kOther;
  uint8_t length = 0;  // bytes
};

// kUnicodeRanges as a two-level table, about 30 KiB. Immutable; share one (Get).
class CharClassTable {
 public:
  static const CharClassTable& Get();

  CharClassTable();

  CharClass ClassOf(char32_t code_point) const {
    return blocks_[block_index_[code_point / kBlockSize]][code_point % kBlockSize];
  }

  // The UTF-8 character at text[position]; a byte that belongs to none is one of class kOther.
  // REQUIRES: position < text.size().
  ClassifiedChar At(std::string_view text, size_t position) const {
    const uint8_t byte = static_cast<uint8_t>(text[position]);
    if (byte < 0x80) return {.char_class = blocks_[0][byte], .length = 1};
    return AtMultibyte(text, position);
  }

 private:
  static constexpr size_t kBlockSize = 256;
  static constexpr size_t kNumBlocks = 0x110000 / kBlockSize;
  using Block = std::array<CharClass, kBlockSize>;

  ClassifiedChar AtMultibyte(std::string_view text, size_t position) const;

  std::vector<Block> blocks_;                      // distinct ones; blocks_[0] is that of ASCII
  std::array<uint8_t, kNumBlocks> block_index_{};  // into blocks_
};

}  // namespace tessera
