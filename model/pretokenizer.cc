#include "model/pretokenizer.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace tessera {
namespace {

struct NamedPretokenizer {
  const char* name;
  Pretokenizer pretokenizer;
};

// The first of each kind is its own name; the others are models that cut text the same way.
constexpr NamedPretokenizer kPretokenizers[] = {
    {"gpt-2", Pretokenizer::kGpt2},       {"phi-2", Pretokenizer::kGpt2},
    {"smollm", Pretokenizer::kSmolLm},    {"starcoder", Pretokenizer::kSmolLm},
    {"refact", Pretokenizer::kSmolLm},    {"codeshell", Pretokenizer::kSmolLm},
    {"llama-bpe", Pretokenizer::kLlama3}, {"llama3", Pretokenizer::kLlama3},
    {"llama-v3", Pretokenizer::kLlama3},  {"falcon3", Pretokenizer::kLlama3},
    {"qwen2", Pretokenizer::kQwen2},      {"deepseek-r1-qwen", Pretokenizer::kQwen2},
};

bool IsNewline(char c) { return c == '\r' || c == '\n'; }

// One piece. Methods are named after the part of the expression that they match.
class PieceScanner {
 public:
  explicit PieceScanner(std::string_view text) : text_(text), table_(CharClassTable::Get()) {}

  size_t Gpt2(size_t begin, bool numbers_stand_alone) const {
    if (const size_t end = Contraction(begin, /*any_case=*/false); end > begin) return end;
    const ClassifiedChar first = At(begin);
    if (numbers_stand_alone && first.char_class == CharClass::kNumber) return begin + first.length;
    if (text_[begin] == ' ' && begin + 1 < text_.size()) {
      const CharClass next = At(begin + 1).char_class;
      const bool joins_next =
          next != CharClass::kSpace && !(numbers_stand_alone && next == CharClass::kNumber);
      if (joins_next) return SkipRun(begin + 1, next);
    }
    if (first.char_class != CharClass::kSpace) return SkipRun(begin, first.char_class);
    return Spaces(begin, numbers_stand_alone);
  }

  size_t Llama3(size_t begin, int max_digits) const {
    if (const size_t end = Contraction(begin, /*any_case=*/true); end > begin) return end;
    const ClassifiedChar first = At(begin);
    if (first.char_class == CharClass::kNumber) return Digits(begin, max_digits);
    if (const size_t end = Word(begin, first); end > begin) return end;
    if (const size_t end = Symbols(begin, first); end > begin) return end;
    if (const size_t end = SpacesToLastNewline(begin); end > begin) return end;
    return Spaces(begin, /*numbers_stand_alone=*/false);
  }

 private:
  ClassifiedChar At(size_t position) const { return table_.At(text_, position); }

  bool HasClassAt(size_t position, CharClass char_class) const {
    return position < text_.size() && At(position).char_class == char_class;
  }

  size_t SkipRun(size_t position, CharClass char_class) const {
    while (position < text_.size()) {
      const ClassifiedChar c = At(position);
      if (c.char_class != char_class) break;
      position += c.length;
    }
    return position;
  }

  // 's 't 're 've 'm 'll 'd; else `begin`.
  size_t Contraction(size_t begin, bool any_case) const {
    if (text_[begin] != '\'') return begin;
    const std::string_view rest = text_.substr(begin + 1, 2);
    // U+017F, the long s, is a lower case of S.
    if (any_case && rest == "\xC5\xBF") return begin + 3;
    const auto letter = [&](size_t i) {
      if (i >= rest.size()) return '\0';
      const bool is_upper = any_case && rest[i] >= 'A' && rest[i] <= 'Z';
      return is_upper ? static_cast<char>(rest[i] - 'A' + 'a') : rest[i];
    };
    const char first = letter(0);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return begin + 2;
    const bool is_pair =
        ((first == 'r' || first == 'v') && letter(1) == 'e') || (first == 'l' && letter(1) == 'l');
    return is_pair ? begin + 3 : begin;
  }

  // [^\r\n\p{L}\p{N}]?\p{L}+; else `begin`.
  size_t Word(size_t begin, ClassifiedChar first) const {
    if (first.char_class == CharClass::kLetter) return SkipRun(begin, CharClass::kLetter);
    const size_t next = begin + first.length;
    if (IsNewline(text_[begin]) || !HasClassAt(next, CharClass::kLetter)) return begin;
    return SkipRun(next, CharClass::kLetter);
  }

  // \p{N}{1,max_digits}
  size_t Digits(size_t begin, int max_digits) const {
    size_t end = begin;
    for (int i = 0; i < max_digits && HasClassAt(end, CharClass::kNumber); ++i) {
      end += At(end).length;
    }
    return end;
  }

  // " ?[^\s\p{L}\p{N}]+[\r\n]*"; else `begin`.
  size_t Symbols(size_t begin, ClassifiedChar first) const {
    size_t end = begin;
    if (text_[begin] == ' ' && HasClassAt(begin + 1, CharClass::kOther)) {
      end = begin + 1;
    } else if (first.char_class != CharClass::kOther) {
      return begin;
    }
    end = SkipRun(end, CharClass::kOther);
    while (end < text_.size() && IsNewline(text_[end])) ++end;
    return end;
  }

  // \s*[\r\n]+; else `begin`.
  size_t SpacesToLastNewline(size_t begin) const {
    size_t end = begin;
    for (size_t position = begin; HasClassAt(position, CharClass::kSpace);) {
      const size_t next = position + At(position).length;
      if (IsNewline(text_[position])) end = next;
      position = next;
    }
    return end;
  }

  // \s+(?!\S)|\s+: all the spaces, or all but the last if something follows. Where numbers stand
  // alone, text ends before a number.
  size_t Spaces(size_t begin, bool numbers_stand_alone) const {
    size_t last = begin;
    size_t end = begin;
    while (HasClassAt(end, CharClass::kSpace)) {
      last = end;
      end += At(end).length;
    }
    const bool is_end =
        end == text_.size() || (numbers_stand_alone && At(end).char_class == CharClass::kNumber);
    return is_end || last == begin ? end : last;
  }

  const std::string_view text_;
  const CharClassTable& table_;
};

std::string SupportedNames() {
  std::string names;
  for (const NamedPretokenizer& p : kPretokenizers) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", p.name);
  }
  return names;
}

}  // namespace

absl::StatusOr<Pretokenizer> FindPretokenizer(const std::string& name) {
  for (const NamedPretokenizer& p : kPretokenizers) {
    if (name == p.name) return p.pretokenizer;
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.ggml.pre: expected one of ", SupportedNames(), "; got '", name, "'"));
}

size_t FindPieceEnd(Pretokenizer pretokenizer, std::string_view text, size_t begin) {
  const PieceScanner scanner(text);
  switch (pretokenizer) {
    case Pretokenizer::kGpt2:
      return scanner.Gpt2(begin, /*numbers_stand_alone=*/false);
    case Pretokenizer::kSmolLm:
      return scanner.Gpt2(begin, /*numbers_stand_alone=*/true);
    case Pretokenizer::kLlama3:
      return scanner.Llama3(begin, /*max_digits=*/3);
    case Pretokenizer::kQwen2:
      return scanner.Llama3(begin, /*max_digits=*/1);
  }
  return text.size();
}

}  // namespace tessera
