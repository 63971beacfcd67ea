#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

// U+FFFD, which stands for bytes that are no UTF-8.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// How a well-formed sequence that starts with a given byte goes on (Unicode 15.0, table 3-7).
// Only the second byte's range depends on the first; later bytes are 80..BF.
struct Utf8Lead {
  uint8_t length = 0;  // bytes in all; 0: no sequence starts with this byte
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

Utf8Lead LookUpUtf8Lead(uint8_t first_byte);

struct Utf8Char {
  char32_t code_point = 0;
  uint8_t length = 0;  // bytes
  bool valid = false;  // false: one byte that belongs to no well-formed sequence
};

// The character at text[position]. REQUIRES: position < text.size().
Utf8Char DecodeUtf8(std::string_view text, size_t position);

bool IsValidUtf8(std::string_view text);

// Makes valid UTF-8 of a stream of byte strings that may be cut anywhere, as tokens are. Emits
// whole characters as soon as their last byte is there, and U+FFFD for each maximal subpart of an
// ill-formed sequence (Unicode 15.0, 3.9, "U+FFFD Substitution of Maximal Subparts"). The
// concatenated output does not depend on where the input was cut. Holds at most 3 bytes; constant
// time per byte.
class Utf8Stream {
 public:
  // The text that these bytes complete; may be empty.
  std::string Append(std::string_view bytes);

  // U+FFFD for an unfinished character, if there is one. The stream may then be used anew.
  std::string Flush();

  size_t num_held_bytes() const { return num_held_; }

 private:
  void AppendByte(uint8_t byte, std::string* text);
  void StartCharacter(uint8_t byte, std::string* text);

  Utf8Lead lead_;  // of the held bytes
  std::array<char, 3> held_{};
  uint8_t num_held_ = 0;
};

}  // namespace tessera
