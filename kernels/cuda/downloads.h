#pragma once

#include <cstddef>
#include <vector>

#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Copies from the device to ordinary host memory, by way of pinned memory, so that the stream need
// not be waited for: Deliver brings them to where they were wanted. Grows to the most ever
// outstanding. Owned and used by one thread, with one stream.
class Downloads {
 public:
  // Brings what was downloaded to where it is wanted.
  using Receiver = void (*)(const char* data, size_t size_bytes, void* host);

  explicit Downloads(const Stream* stream) : stream_(*stream) {}

  void Add(const void* device, size_t size_bytes, void* host);
  void Add(const void* device, size_t size_bytes, void* host, Receiver receiver);
  // REQUIRES: the stream has come past all that was added.
  void Deliver();

 private:
  struct Pending {
    size_t offset;
    size_t size_bytes;
    void* host;
    Receiver receiver;
  };

  const Stream& stream_;
  PinnedMemory pinned_;
  size_t used_bytes_ = 0;
  std::vector<Pending> pending_;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
