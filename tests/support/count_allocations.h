#pragma once

#include <cstdint>

namespace tessera {

// Calls of operator new since the program began. A program that links this replaces operator new.
int64_t NumHeapAllocations();

}  // namespace tessera
