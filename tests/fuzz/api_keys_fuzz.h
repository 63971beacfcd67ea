#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera {

// Reads `data` as a key file. If it is good, lets each tenant ask for its quota, and adds a key
// that must then be found. Aborts if what the reader hands out is not consistent; false if the file
// was refused.
bool FuzzApiKeys(const uint8_t* data, size_t size);

}  // namespace tessera
