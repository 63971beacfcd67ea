#include "model/utf8.h"

#include "base/check.h"

namespace tessera {
namespace {

bool IsContinuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

// Whether `byte` may stand at `index` (1..3) of the sequence that `lead` starts.
bool Continues(const Utf8Lead& lead, size_t index, uint8_t byte) {
  if (index == 1) return byte >= lead.second_min && byte <= lead.second_max;
  return IsContinuation(byte);
}

}  // namespace

Utf8Lead LookUpUtf8Lead(uint8_t first_byte) {
  if (first_byte < 0x80) return {.length = 1};
  if (first_byte < 0xC2) return {};
  if (first_byte < 0xE0) return {.length = 2};
  if (first_byte == 0xE0) return {.length = 3, .second_min = 0xA0};
  if (first_byte == 0xED) return {.length = 3, .second_max = 0x9F};
  if (first_byte < 0xF0) return {.length = 3};
  if (first_byte == 0xF0) return {.length = 4, .second_min = 0x90};
  if (first_byte < 0xF4) return {.length = 4};
  if (first_byte == 0xF4) return {.length = 4, .second_max = 0x8F};
  return {};
}

Utf8Char DecodeUtf8(std::string_view text, size_t position) {
  CHECK_LT(position, text.size());
  const uint8_t first = static_cast<uint8_t>(text[position]);
  const Utf8Lead lead = LookUpUtf8Lead(first);
  if (lead.length == 1) return {.code_point = first, .length = 1, .valid = true};
  const Utf8Char invalid = {.code_point = first, .length = 1, .valid = false};
  if (lead.length == 0 || text.size() - position < lead.length) return invalid;

  char32_t code_point = first & (0x7Fu >> lead.length);
  for (size_t i = 1; i < lead.length; ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[position + i]);
    if (!Continues(lead, i, byte)) return invalid;
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {.code_point = code_point, .length = lead.length, .valid = true};
}

bool IsValidUtf8(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const Utf8Char c = DecodeUtf8(text, position);
    if (!c.valid) return false;
    position += c.length;
  }
  return true;
}

std::string Utf8Stream::Append(std::string_view bytes) {
  std::string text;
  text.reserve(num_held_ + bytes.size());
  for (const char byte : bytes) AppendByte(static_cast<uint8_t>(byte), &text);
  return text;
}

std::string Utf8Stream::Flush() {
  if (num_held_ == 0) return {};
  num_held_ = 0;
  return std::string(kReplacementCharacter);
}

void Utf8Stream::AppendByte(uint8_t byte, std::string* text) {
  if (num_held_ == 0) return StartCharacter(byte, text);
  if (!Continues(lead_, num_held_, byte)) {
    text->append(kReplacementCharacter);
    num_held_ = 0;
    return StartCharacter(byte, text);
  }
  if (num_held_ + 1 < lead_.length) {
    held_[num_held_++] = static_cast<char>(byte);
    return;
  }
  text->append(held_.data(), num_held_);
  text->push_back(static_cast<char>(byte));
  num_held_ = 0;
}

void Utf8Stream::StartCharacter(uint8_t byte, std::string* text) {
  lead_ = LookUpUtf8Lead(byte);
  if (lead_.length == 1) {
    text->push_back(static_cast<char>(byte));
  } else if (lead_.length == 0) {
    text->append(kReplacementCharacter);
  } else {
    held_[0] = static_cast<char>(byte);
    num_held_ = 1;
  }
}

}  // namespace tessera
