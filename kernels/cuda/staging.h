#pragma once

#include <cstddef>

#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Pinned memory for a step's small uploads, one behind the other, so that none has to wait for the
// stream. Grows to the most that a step needs. Owned and used by one thread, with one stream.
class Staging {
 public:
  explicit Staging(const Stream* stream) : stream_(*stream) {}

  // Memory to write, aligned to 64 bytes, for copies to the device that are enqueued before the
  // next call.
  char* Take(size_t size_bytes);
  // REQUIRES: the stream has come past these copies.
  void Clear() { used_bytes_ = 0; }

 private:
  const Stream& stream_;
  PinnedMemory pinned_;
  size_t used_bytes_ = 0;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
