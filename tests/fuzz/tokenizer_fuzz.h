#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera {

// Reads `data` as a vocabulary and a text, makes the tokenizer if the vocabulary is good, encodes
// the text and checks what must hold of any tokens. Aborts if it does not; false if the vocabulary
// was refused.
bool FuzzTokenizer(const uint8_t* data, size_t size);

}  // namespace tessera
