#include "kernels/cuda/upload_buffer.h"

#include <algorithm>

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr size_t kMinBytes = size_t{256} << 10;

}  // namespace

char* UploadBuffer::BeginWrite(size_t size_bytes) {
  Reserve(size_bytes);
  size_bytes_ = size_bytes;
  slot_ ^= 1;
  copied_[slot_].Synchronize();
  return pinned_[slot_].data();
}

void UploadBuffer::Copy() {
  CopyToDeviceAsync(device_.data(), pinned_[slot_].data(), size_bytes_, stream_);
  copied_[slot_].Record(stream_);
}

void UploadBuffer::Reserve(size_t size_bytes) {
  if (size_bytes <= device_.size_bytes()) return;
  stream_.Synchronize();  // the old memory's readers
  const size_t capacity = std::max({kMinBytes, size_bytes, 2 * device_.size_bytes()});
  device_ = DeviceMemory(capacity);
  for (PinnedMemory& pinned : pinned_) pinned = PinnedMemory(capacity);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
