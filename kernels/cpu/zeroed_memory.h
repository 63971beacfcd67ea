#pragma once

#include <cstddef>

namespace tessera {

// From the heap, where AddressSanitizer sees a block's end: 64-byte aligned, to be freed by
// std::free. Aborts where there is no memory.
void* AllocateZeros(size_t size_bytes);

inline constexpr size_t kHugePageBytes = size_t{2} << 20;

// Zero pages straight from the system, which take memory only as they are touched: huge ones where
// it has them, so that streaming through them rarely misses the TLB. Aligned to kHugePageBytes.
// Aborts where there is no address space.
void* MapHugePages(size_t size_bytes);
// The size as it was mapped.
void UnmapHugePages(void* data, size_t size_bytes);

}  // namespace tessera
