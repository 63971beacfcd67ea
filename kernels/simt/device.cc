#include "kernels/simt/device.h"

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <utility>

#include "base/check.h"

namespace tessera::simt {
namespace {

constexpr size_t kGuardBytes = 512;  // also the alignment, more than cudaMalloc's 256
constexpr char kPoison = static_cast<char>(0xFF);

bool IsPoison(const char* begin, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    if (begin[i] != kPoison) return false;
  }
  return true;
}

void SetForbidden([[maybe_unused]] const char* begin, [[maybe_unused]] size_t bytes,
                  [[maybe_unused]] bool forbidden) {
#ifdef TESSERA_SIMT_ASAN
  if (forbidden) {
    ASAN_POISON_MEMORY_REGION(begin, bytes);
  } else {
    ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
  }
#endif
}

// The guard in front and, up to the end of the block, the one behind.
size_t BlockBytes(size_t bytes) {
  return (bytes + 2 * kGuardBytes + kGuardBytes - 1) / kGuardBytes * kGuardBytes;
}

}  // namespace

Device& Device::Get() {
  static Device& device = *new Device;  // never destroyed: streams of static life may outlive it
  return device;
}

void Device::SetSeed(uint64_t seed) {
  const std::lock_guard lock(mutex_);
  seed_ = seed;
  num_launches_ = 0;
}

void* Device::AllocateGuarded(size_t bytes, Space space) {
  const size_t block_bytes = BlockBytes(bytes);
  char* block = static_cast<char*>(std::aligned_alloc(kGuardBytes, block_bytes));
  CHECK(block != nullptr) << "no host memory for " << bytes << " bytes of the simulated device";
  std::memset(block, kPoison, block_bytes);
  char* memory = block + kGuardBytes;
  SetForbidden(block, kGuardBytes, true);
  SetForbidden(memory + bytes, block_bytes - kGuardBytes - bytes, true);
  allocations_[memory] = {bytes, space};
  return memory;
}

void Device::FreeGuarded(void* memory, Space space) {
  const auto found = allocations_.find(static_cast<char*>(memory));
  CHECK(found != allocations_.end() && found->second.space == space)
      << "freed memory that was not allocated here";
  char* block = static_cast<char*>(memory) - kGuardBytes;
  SetForbidden(block, BlockBytes(found->second.bytes), false);
  allocations_.erase(found);
  std::free(block);
}

void* Device::Allocate(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > kMemoryBytes - used_bytes_) return nullptr;
  used_bytes_ += bytes;
  return AllocateGuarded(bytes, Space::kDevice);
}

void Device::Free(void* memory) {
  const std::lock_guard lock(mutex_);
  for (Queue* queue : queues_) RunAll(queue);
  CheckGuards("(none: memory freed)");
  used_bytes_ -= allocations_.at(static_cast<char*>(memory)).bytes;
  FreeGuarded(memory, Space::kDevice);
}

void* Device::AllocatePinned(size_t bytes) {
  const std::lock_guard lock(mutex_);
  return AllocateGuarded(bytes, Space::kPinned);
}

void Device::FreePinned(void* memory) {
  const std::lock_guard lock(mutex_);
  for (Queue* queue : queues_) RunAll(queue);
  FreeGuarded(memory, Space::kPinned);
}

size_t Device::free_bytes() {
  const std::lock_guard lock(mutex_);
  return kMemoryBytes - used_bytes_;
}

Queue* Device::MakeQueue() {
  const std::lock_guard lock(mutex_);
  return *queues_.insert(new Queue).first;
}

void Device::DestroyQueue(Queue* queue) {
  const std::lock_guard lock(mutex_);
  RunAll(queue);
  queues_.erase(queue);
  delete queue;
}

void Device::Synchronize(Queue* queue) {
  const std::lock_guard lock(mutex_);
  CHECK(queue->capture == nullptr) << "a stream was waited for while it captures a graph";
  RunAll(queue);
}

void Device::Wait(Queue* queue, Event* event) {
  const std::lock_guard lock(mutex_);
  Enqueue(queue, [this, event] { Synchronize(event); });
}

void Device::Record(Event* event, Queue* queue) {
  const std::lock_guard lock(mutex_);
  CHECK(queue->capture == nullptr) << "an event was recorded into a graph";
  event->queue = queue;
  ++event->num_outstanding_records;
  Enqueue(queue, [event] {
    --event->num_outstanding_records;
    event->time = std::chrono::steady_clock::now();
  });
}

void Device::Synchronize(Event* event) {
  const std::lock_guard lock(mutex_);
  while (event->num_outstanding_records > 0) RunOne(event->queue);
}

bool Device::IsDone(Event* event) {
  const std::lock_guard lock(mutex_);
  if (event->num_outstanding_records > 0) RunOne(event->queue);
  return event->num_outstanding_records == 0;
}

void Device::BeginCapture(Queue* queue, Graph* graph) {
  const std::lock_guard lock(mutex_);
  CHECK(queue->capture == nullptr) << "a stream captures two graphs at once";
  queue->capture = &graph->operations;
}

void Device::EndCapture(Queue* queue) {
  const std::lock_guard lock(mutex_);
  queue->capture = nullptr;
}

void Device::Replay(const Graph& graph, Queue* queue) {
  const std::lock_guard lock(mutex_);
  for (const Operation& operation : graph.operations) Enqueue(queue, operation);
}

void Device::Launch(Queue* queue, KernelLaunch launch) {
  const std::lock_guard lock(mutex_);
  const auto shared = std::make_shared<KernelLaunch>(std::move(launch));
  Enqueue(queue, [this, shared] { Run(*shared); });
}

void Device::Run(const KernelLaunch& launch) {
  static thread_local Block block;
  block.RunGrid(launch, seed_ * 1000003 + num_launches_++);
  CheckGuards(launch.name);
}

void Device::CopyToDevice(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return;  // an empty array has no address
  const std::lock_guard lock(mutex_);
  Require(device, bytes, Space::kDevice, "target of a copy to the device");
  std::memcpy(device, host, bytes);
}

void Device::CopyToHost(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  Require(device, bytes, Space::kDevice, "source of a copy to the host");
  std::memcpy(host, device, bytes);
}

void Device::CopyToDeviceAsync(void* device, const void* pinned, size_t bytes, Queue* queue) {
  const std::lock_guard lock(mutex_);
  Require(device, bytes, Space::kDevice, "target of an asynchronous copy to the device");
  Require(pinned, bytes, Space::kPinned, "source of an asynchronous copy to the device");
  Enqueue(queue, [=] { std::memcpy(device, pinned, bytes); });
}

void Device::CopyToHostAsync(void* pinned, const void* device, size_t bytes, Queue* queue) {
  const std::lock_guard lock(mutex_);
  Require(pinned, bytes, Space::kPinned, "target of an asynchronous copy to the host");
  Require(device, bytes, Space::kDevice, "source of an asynchronous copy to the host");
  Enqueue(queue, [=] { std::memcpy(pinned, device, bytes); });
}

void Device::CopyOnDeviceAsync(void* to, const void* from, size_t bytes, Queue* queue) {
  const std::lock_guard lock(mutex_);
  Require(to, bytes, Space::kDevice, "target of a copy on the device");
  Require(from, bytes, Space::kDevice, "source of a copy on the device");
  Enqueue(queue, [=] { std::memcpy(to, from, bytes); });
}

void Device::FillAsync(void* device, uint8_t value, size_t bytes, Queue* queue) {
  const std::lock_guard lock(mutex_);
  Require(device, bytes, Space::kDevice, "target of a fill");
  Enqueue(queue, [=] { std::memset(device, value, bytes); });
}

void Device::Require(const void* memory, size_t bytes, Space space, const char* what) const {
  const char* begin = static_cast<const char*>(memory);
  auto after = allocations_.upper_bound(begin);
  const bool inside = after != allocations_.begin() && (--after, after->second.space == space) &&
                      begin + bytes <= after->first + after->second.bytes;
  CHECK(inside || bytes == 0) << "the " << what << " (" << bytes << " bytes) is not within one "
                              << (space == Space::kDevice ? "device" : "pinned") << " allocation";
}

void Device::CheckGuards(const std::string& kernel) const {
  for (const auto& [memory, allocation] : allocations_) {
    const char* end = memory + allocation.bytes;
    const size_t end_bytes = BlockBytes(allocation.bytes) - kGuardBytes - allocation.bytes;
    SetForbidden(memory - kGuardBytes, kGuardBytes, false);
    SetForbidden(end, end_bytes, false);
    const bool intact = IsPoison(memory - kGuardBytes, kGuardBytes) && IsPoison(end, end_bytes);
    SetForbidden(memory - kGuardBytes, kGuardBytes, true);
    SetForbidden(end, end_bytes, true);
    CHECK(intact) << "simt: kernel " << kernel << ": a store out of bounds beside an allocation of "
                  << allocation.bytes << " bytes";
  }
}

void Device::Enqueue(Queue* queue, Operation operation) {
  if (queue->capture != nullptr) {
    queue->capture->push_back(std::move(operation));
  } else {
    queue->operations.push_back(std::move(operation));
  }
}

void Device::RunOne(Queue* queue) {
  CHECK(!queue->operations.empty()) << "an event waits for a stream that has nothing to run";
  const Operation operation = std::move(queue->operations.front());
  queue->operations.pop_front();
  operation();
}

void Device::RunAll(Queue* queue) {
  while (!queue->operations.empty()) RunOne(queue);
}

}  // namespace tessera::simt
