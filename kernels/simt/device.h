#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "kernels/simt/block.h"

namespace tessera::simt {

using Operation = std::function<void()>;

// What a stream has been given and not yet run, in order. While it captures, operations go into a
// graph instead.
struct Queue {
  std::deque<Operation> operations;
  std::vector<Operation>* capture = nullptr;
};

// Done when the stream it was last recorded on has come to it; also before the first record.
struct Event {
  Queue* queue = nullptr;
  int num_outstanding_records = 0;
  std::chrono::steady_clock::time_point time;
};

struct Graph {
  std::vector<Operation> operations;
};

// A device made of this process's memory: the other side of kernels/cuda/runtime.h.
//
// Nothing that is asked of a stream happens before the host waits for it (or asks whether an event
// is done, which runs one operation). So a result read too early is not there yet, and a staging
// buffer overwritten too early has been overwritten.
//
// Device memory is filled with 0xFF and lies between guard zones, which are checked after each
// launch; under AddressSanitizer every byte outside is poisoned. Copies check that each end lies
// in one allocation of its kind; asynchronous ones demand pinned host memory. Any thread may call.
class Device {
 public:
  static constexpr size_t kMemoryBytes = size_t{8} << 30;

  static Device& Get();

  // Lane and block order of all launches from here on.
  void SetSeed(uint64_t seed);

  void* Allocate(size_t bytes);  // null if more than kMemoryBytes were taken
  void Free(void* memory);       // waits for all streams, as cudaFree does
  void* AllocatePinned(size_t bytes);
  void FreePinned(void* memory);
  size_t free_bytes();

  Queue* MakeQueue();
  void DestroyQueue(Queue* queue);
  void Synchronize(Queue* queue);
  void Wait(Queue* queue, Event* event);

  void Record(Event* event, Queue* queue);
  void Synchronize(Event* event);
  bool IsDone(Event* event);

  void BeginCapture(Queue* queue, Graph* graph);
  void EndCapture(Queue* queue);
  void Replay(const Graph& graph, Queue* queue);

  void Launch(Queue* queue, KernelLaunch launch);
  void CopyToDevice(void* device, const void* host, size_t bytes);
  void CopyToHost(void* host, const void* device, size_t bytes);
  void CopyToDeviceAsync(void* device, const void* pinned, size_t bytes, Queue* queue);
  void CopyToHostAsync(void* pinned, const void* device, size_t bytes, Queue* queue);
  void CopyOnDeviceAsync(void* to, const void* from, size_t bytes, Queue* queue);
  void FillAsync(void* device, uint8_t value, size_t bytes, Queue* queue);

 private:
  enum class Space { kDevice, kPinned, kPageable };
  struct Allocation {
    size_t bytes;
    Space space;
  };

  Device() = default;

  void* AllocateGuarded(size_t bytes, Space space);
  void FreeGuarded(void* memory, Space space);
  void Require(const void* memory, size_t bytes, Space space, const char* what) const;
  void CheckGuards(const std::string& kernel) const;
  void Enqueue(Queue* queue, Operation operation);
  void RunOne(Queue* queue);
  void RunAll(Queue* queue);
  void Run(const KernelLaunch& launch);

  std::recursive_mutex mutex_;
  std::map<const char*, Allocation> allocations_;
  std::set<Queue*> queues_;
  size_t used_bytes_ = 0;
  uint64_t seed_ = 1;
  uint64_t num_launches_ = 0;
};

}  // namespace tessera::simt
