#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace tessera::simt {

// The most an sm_80 block may use, static and dynamic together (CUDA C++ Programming Guide,
// table of compute capabilities: 163 KB). Our kernels must fit the smallest device they serve.
inline constexpr size_t kMaxSharedBytes = size_t{163} << 10;

// The shared memory of the one block that a host thread runs: dynamic memory of exactly the size
// asked for, and static objects, each between guard zones. Everything holds 0xFF (NaN, -1) when a
// block begins; a guard that holds anything else at its end was written out of bounds. Under
// AddressSanitizer the guards are poisoned too, so that the access itself is reported.
class SharedMemory {
 public:
  SharedMemory();
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void Reset(size_t dynamic_bytes);

  char* dynamic() { return memory_ + kDynamicOffset; }

  // The static object that tag stands for, made when the first lane asks for it.
  void* Static(const void* tag, size_t bytes, size_t alignment);

  bool Contains(const void* begin, size_t bytes) const;

  // Empty, or where a guard zone was overwritten.
  std::string FindOverwrittenGuard() const;

 private:
  static constexpr size_t kGuardBytes = 1024;
  static constexpr size_t kStaticCapacity = size_t{64} << 10;
  static constexpr size_t kDynamicOffset = kStaticCapacity;
  static constexpr size_t kCapacity = kDynamicOffset + kMaxSharedBytes + kGuardBytes;
  static constexpr int kMaxStatics = 32;

  struct Object {
    const void* tag;
    size_t begin;
    size_t bytes;
  };

  std::string CheckGap(size_t begin, size_t end, const std::string& after) const;

  char* memory_;
  Object statics_[kMaxStatics];
  int num_statics_ = 0;
  size_t static_end_ = 0;  // end of the last static object
  size_t dynamic_bytes_ = 0;
};

}  // namespace tessera::simt
