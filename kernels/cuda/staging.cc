#include "kernels/cuda/staging.h"

#include <algorithm>

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr size_t kMinBytes = size_t{64} << 10;
constexpr size_t kAlignment = 64;

}  // namespace

char* Staging::Take(size_t size_bytes) {
  if (used_bytes_ + size_bytes > pinned_.size_bytes()) {
    stream_.Synchronize();  // the old memory's readers
    pinned_ = PinnedMemory(std::max({kMinBytes, size_bytes, 2 * pinned_.size_bytes()}));
    used_bytes_ = 0;
  }
  char* taken = pinned_.data() + used_bytes_;
  used_bytes_ += (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  return taken;
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
