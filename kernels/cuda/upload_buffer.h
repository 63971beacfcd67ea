#pragma once

#include <cstddef>

#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Device memory that the host fills anew again and again, by one asynchronous copy from pinned
// memory each time. There are two pinned buffers, so that the host writes one while the device may
// still copy the other; the device's memory is one, since the stream orders its readers. Grows to
// the largest contents. Owned and used by one thread, with one stream.
class UploadBuffer {
 public:
  explicit UploadBuffer(const Stream* stream) : stream_(*stream) {}

  // Where to write the next contents, which Copy brings to the device.
  char* BeginWrite(size_t size_bytes);
  void Copy();

  // Where they will be; other memory only after BeginWrite of more than ever before.
  char* device() const { return device_.data(); }

 private:
  void Reserve(size_t size_bytes);

  const Stream& stream_;
  DeviceMemory device_;
  PinnedMemory pinned_[2];
  Event copied_[2];  // out of pinned_
  int slot_ = 0;
  size_t size_bytes_ = 0;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
