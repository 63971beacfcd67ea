#include "kernels/cuda/downloads.h"

#include <algorithm>
#include <cstring>

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr size_t kMinBytes = size_t{64} << 10;
constexpr size_t kAlignment = 64;

}  // namespace

void Downloads::Add(const void* device, size_t size_bytes, void* host) {
  Add(device, size_bytes, host,
      [](const char* data, size_t size, void* to) { std::memcpy(to, data, size); });
}

void Downloads::Add(const void* device, size_t size_bytes, void* host, Receiver receiver) {
  if (size_bytes == 0) return;
  const size_t wanted_bytes = used_bytes_ + size_bytes;
  if (wanted_bytes > pinned_.size_bytes()) {
    stream_.Synchronize();
    Deliver();
    pinned_ = PinnedMemory(std::max(kMinBytes, 2 * wanted_bytes));
  }
  pending_.push_back({used_bytes_, size_bytes, host, receiver});
  CopyToHostAsync(pinned_.data() + used_bytes_, device, size_bytes, stream_);
  used_bytes_ += (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void Downloads::Deliver() {
  for (const Pending& pending : pending_) {
    pending.receiver(pinned_.data() + pending.offset, pending.size_bytes, pending.host);
  }
  pending_.clear();
  used_bytes_ = 0;
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
