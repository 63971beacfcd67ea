#include "kernels/cpu/zeroed_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace tessera {
namespace {

constexpr size_t kAlignment = 64;

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

void* AllocateZeros(size_t size_bytes) {
  const size_t rounded = RoundUp(size_bytes, kAlignment);
  void* data = std::aligned_alloc(kAlignment, rounded);
  CHECK(data != nullptr) << "out of memory: " << size_bytes << " bytes";
  std::memset(data, 0, rounded);
  return data;
}

void* MapHugePages(size_t size_bytes) {
  const size_t rounded = RoundUp(size_bytes, kHugePageBytes);
  const size_t mapped_bytes = rounded + kHugePageBytes;
  void* mapped =
      mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mapped != MAP_FAILED) << "out of memory: " << size_bytes << " bytes";
  const auto begin = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = RoundUp(begin, kHugePageBytes);
  const size_t num_before = aligned - begin;
  if (num_before > 0) munmap(mapped, num_before);
  void* data = reinterpret_cast<void*>(aligned);
  munmap(reinterpret_cast<void*>(aligned + rounded), kHugePageBytes - num_before);
  madvise(data, rounded, MADV_HUGEPAGE);
  return data;
}

void UnmapHugePages(void* data, size_t size_bytes) {
  munmap(data, RoundUp(size_bytes, kHugePageBytes));
}

}  // namespace tessera
