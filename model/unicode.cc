#include "model/unicode.h"

#include <algorithm>
#include <map>
#include <span>

#include "base/check.h"
#include "model/utf8.h"

namespace tessera {

const CharClassTable& CharClassTable::Get() {
  static const CharClassTable* const table = new CharClassTable;  // lives to the end: no exit order
  return *table;
}

CharClassTable::CharClassTable() {
  std::vector<CharClass> classes(kNumBlocks * kBlockSize, CharClass::kOther);
  for (const UnicodeRange& range : std::span(kUnicodeRanges, kNumUnicodeRanges)) {
    std::fill(classes.begin() + range.first, classes.begin() + range.last + 1, range.char_class);
  }
  std::map<Block, uint8_t> index_of_block;
  for (size_t i = 0; i < kNumBlocks; ++i) {
    Block block;
    std::copy_n(classes.begin() + static_cast<ptrdiff_t>(i * kBlockSize), kBlockSize,
                block.begin());
    CHECK_LT(blocks_.size(), 256u) << "block_index_ has eight bits";
    const auto [entry, is_new] =
        index_of_block.try_emplace(block, static_cast<uint8_t>(blocks_.size()));
    if (is_new) blocks_.push_back(block);
    block_index_[i] = entry->second;
  }
}

ClassifiedChar CharClassTable::AtMultibyte(std::string_view text, size_t position) const {
  const Utf8Char c = DecodeUtf8(text, position);
  return {.char_class = c.valid ? ClassOf(c.code_point) : CharClass::kOther, .length = c.length};
}

}  // namespace tessera
