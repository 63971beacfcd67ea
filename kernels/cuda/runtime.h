#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/cuda/world.h"
#ifdef TESSERA_SIMT
#include "kernels/simt/device.h"
#endif

// The little of the CUDA runtime that host code needs, in both worlds (docs/cuda.md). One device a
// process, chosen by OpenDevice. Any call that fails aborts with its text (CudaCheckFailed), save
// where a comment says otherwise: after OpenDevice a failure is a bug or a device fault.
//
// On the simulated device what a stream is given runs when the host waits for it (simt/device.h).

namespace tessera::TESSERA_CUDA_NAMESPACE {

#ifdef TESSERA_SIMT
using StreamHandle = simt::Queue*;
using EventHandle = simt::Event*;
using GraphHandle = simt::Graph*;
#else
using StreamHandle = cudaStream_t;
using EventHandle = cudaEvent_t;
using GraphHandle = cudaGraphExec_t;
#endif

struct DeviceProperties {
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int num_sms = 0;
  size_t total_memory_bytes = 0;
  size_t l2_bytes = 0;
  size_t max_shared_bytes_per_block = 0;
  size_t shared_bytes_per_sm = 0;
  int driver_version = 0;   // 1000 major + 10 minor
  int runtime_version = 0;  // likewise
};

// Makes `device` the process's device. Returns an empty string, or what is wrong with the driver,
// the index or the architecture (below 8.0), in which case nothing else here may be called.
std::string OpenDevice(int device, DeviceProperties* properties);

size_t FreeDeviceBytes();

// Owns a handle; moves only.
template <typename Handle, void (*Destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) Destroy(handle_);
  }

  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

void DestroyStream(StreamHandle stream);
void DestroyEvent(EventHandle event);
void DestroyGraph(GraphHandle graph);
void FreeDeviceMemory(void* memory);
void FreePinnedMemory(void* memory);

class Event;

// Work in order. Streams are not ordered with each other but by events. Used by one thread at a
// time.
class Stream {
 public:
  Stream();

  StreamHandle handle() const { return stream_.get(); }
  void Synchronize() const;
  // What follows on this stream waits for the event's last record. REQUIRES: the event outlives it.
  void WaitFor(const Event& event) const;

 private:
  Owned<StreamHandle, DestroyStream> stream_;
};

// A point of a stream. Never recorded, it is done.
class Event {
 public:
  Event();

  EventHandle handle() const { return event_.get(); }
  void Record(const Stream& stream) const;
  void Synchronize() const;
  bool IsDone() const;

 private:
  Owned<EventHandle, DestroyEvent> event_;
};

// REQUIRES: both recorded and done.
double MillisecondsBetween(const Event& begin, const Event& end);

// What a stream was given between the ends of Capture, to be given again as one. Arguments of
// kernels and addresses of copies are those of the capture.
class Graph {
 public:
  // Calls enqueue, which may launch on the stream and copy asynchronously, and do nothing else.
  static Graph Capture(const Stream& stream, const std::function<void()>& enqueue);

  void Launch(const Stream& stream) const;

 private:
  Owned<GraphHandle, DestroyGraph> graph_;
};

// Device memory, aligned to 256 bytes, contents undefined. Null data for zero bytes.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(size_t size_bytes);  // aborts where memory is short

  // data() is null where memory is short.
  static DeviceMemory TryAllocate(size_t size_bytes);

  char* data() const { return static_cast<char*>(memory_.get()); }
  size_t size_bytes() const { return size_bytes_; }

 private:
  Owned<void*, FreeDeviceMemory> memory_;
  size_t size_bytes_ = 0;
};

// Host memory that the device can copy from and to by itself.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(size_t size_bytes);

  char* data() const { return static_cast<char*>(memory_.get()); }
  size_t size_bytes() const { return size_bytes_; }

 private:
  Owned<void*, FreePinnedMemory> memory_;
  size_t size_bytes_ = 0;
};

// Done on return, and not ordered with any stream.
void CopyToDevice(void* device, const void* host, size_t size_bytes);
void CopyToHost(void* host, const void* device, size_t size_bytes);

// The host's side is PinnedMemory, untouched until the stream has come past the copy.
void CopyToDeviceAsync(void* device, const void* pinned, size_t size_bytes, const Stream& stream);
void CopyToHostAsync(void* pinned, const void* device, size_t size_bytes, const Stream& stream);
void CopyOnDeviceAsync(void* to, const void* from, size_t size_bytes, const Stream& stream);
void FillAsync(void* device, uint8_t value, size_t size_bytes, const Stream& stream);

// An array on the device, for tests and tables.
template <typename T>
class DeviceArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit DeviceArray(size_t size) : memory_(size * sizeof(T)), size_(size) {}
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    CopyToDevice(memory_.data(), values.data(), size_ * sizeof(T));
  }

  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  size_t size() const { return size_; }

  // REQUIRES: every stream that writes it was synchronised.
  std::vector<T> ToHost() const {
    std::vector<T> values(size_);
    CopyToHost(values.data(), memory_.data(), size_ * sizeof(T));
    return values;
  }

 private:
  DeviceMemory memory_;
  size_t size_;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
