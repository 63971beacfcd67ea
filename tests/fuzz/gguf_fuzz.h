#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera {

// Reads `data` as a model file and, as far as it is good, its configuration, vocabulary and
// weights. Aborts if what the reader hands out is not consistent; false if the file was refused.
bool FuzzGguf(const uint8_t* data, size_t size);

}  // namespace tessera
