#include "kernels/cpu/weight_arena.h"

#include <algorithm>
#include <cstdlib>

#include "kernels/cpu/zeroed_memory.h"

namespace tessera {
namespace {

constexpr size_t kCacheLineBytes = 64;
// Of address space: a chunk takes memory only as it fills.
constexpr size_t kMinChunkBytes = size_t{64} << 20;
// Smaller blocks come from the heap, where AddressSanitizer sees their ends.
constexpr size_t kMinArenaBytes = size_t{64} << 10;

std::shared_ptr<uint8_t> AllocateFromHeap(size_t size_bytes) {
  return {static_cast<uint8_t*>(AllocateZeros(size_bytes)),
          [](uint8_t* block) { std::free(block); }};
}

std::shared_ptr<uint8_t> MapChunk(size_t chunk_bytes) {
  return {static_cast<uint8_t*>(MapHugePages(chunk_bytes)),
          [=](uint8_t* chunk) { UnmapHugePages(chunk, chunk_bytes); }};
}

}  // namespace

std::shared_ptr<uint8_t> WeightArena::Allocate(size_t size_bytes) {
  const size_t rounded = (size_bytes + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
  if (rounded < kMinArenaBytes) return AllocateFromHeap(rounded);
  if (chunk_bytes_ - used_bytes_ < rounded) {
    chunk_bytes_ = std::max(rounded, kMinChunkBytes);
    chunk_ = MapChunk(chunk_bytes_);
    used_bytes_ = 0;
  }
  uint8_t* block = chunk_.get() + used_bytes_;
  used_bytes_ += rounded;
  return {chunk_, block};
}

}  // namespace tessera
