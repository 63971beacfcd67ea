#include "kernels/cpu/weight_arena.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/huge_pages.h"

namespace tessera {
namespace {

constexpr size_t kCacheLineBytes = 64;
// Of address space: a chunk takes memory only as it fills.
constexpr size_t kMinChunkBytes = size_t{64} << 20;
// Smaller blocks come from the heap, where AddressSanitizer sees their ends.
constexpr size_t kMinArenaBytes = size_t{64} << 10;

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::shared_ptr<uint8_t> AllocateFromHeap(size_t size_bytes) {
  auto* data = static_cast<uint8_t*>(std::aligned_alloc(kCacheLineBytes, size_bytes));
  CHECK(data != nullptr) << "out of memory for a weight of " << size_bytes << " bytes";
  std::memset(data, 0, size_bytes);
  return {data, [](uint8_t* block) { std::free(block); }};
}

std::shared_ptr<uint8_t> MapChunk(size_t chunk_bytes) {
  return {static_cast<uint8_t*>(MapHugePages(chunk_bytes)),
          [=](uint8_t* chunk) { UnmapHugePages(chunk, chunk_bytes); }};
}

}  // namespace

std::shared_ptr<uint8_t> WeightArena::Allocate(size_t size_bytes) {
  const size_t rounded = RoundUp(size_bytes, kCacheLineBytes);
  if (rounded < kMinArenaBytes) return AllocateFromHeap(rounded);
  if (chunk_bytes_ - used_bytes_ < rounded) {
    chunk_bytes_ = RoundUp(std::max(rounded, kMinChunkBytes), kHugePageBytes);
    chunk_ = MapChunk(chunk_bytes_);
    used_bytes_ = 0;
  }
  uint8_t* block = chunk_.get() + used_bytes_;
  used_bytes_ += rounded;
  return {chunk_, block};
}

}  // namespace tessera
