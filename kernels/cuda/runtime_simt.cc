#include "base/check.h"
#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

simt::Device& device() { return simt::Device::Get(); }

}  // namespace

std::string OpenDevice(int device_index, DeviceProperties* properties) {
  if (device_index != 0) {
    return "device " + std::to_string(device_index) + " does not exist: 1 simulated device found";
  }
  *properties = {.name = "simulated sm_80",
                 .compute_major = 8,
                 .compute_minor = 0,
                 .num_sms = 4,
                 .total_memory_bytes = simt::Device::kMemoryBytes,
                 .l2_bytes = size_t{40} << 20,
                 .max_shared_bytes_per_block = simt::kMaxSharedBytes,
                 .shared_bytes_per_sm = size_t{164} << 10,
                 .driver_version = 0,
                 .runtime_version = 0};
  return "";
}

size_t FreeDeviceBytes() { return device().free_bytes(); }

void DestroyStream(StreamHandle stream) { device().DestroyQueue(stream); }
void DestroyEvent(EventHandle event) {
  device().Synchronize(event);
  delete event;
}
void DestroyGraph(GraphHandle graph) { delete graph; }
void FreeDeviceMemory(void* memory) { device().Free(memory); }
void FreePinnedMemory(void* memory) { device().FreePinned(memory); }

Stream::Stream() : stream_(device().MakeQueue()) {}
void Stream::Synchronize() const { device().Synchronize(handle()); }
void Stream::WaitFor(const Event& event) const { device().Wait(handle(), event.handle()); }

Event::Event() : event_(new simt::Event) {}
void Event::Record(const Stream& stream) const { device().Record(handle(), stream.handle()); }
void Event::Synchronize() const { device().Synchronize(handle()); }
bool Event::IsDone() const { return device().IsDone(handle()); }

double MillisecondsBetween(const Event& begin, const Event& end) {
  const auto elapsed = end.handle()->time - begin.handle()->time;
  return std::chrono::duration<double, std::milli>(elapsed).count();
}

Graph Graph::Capture(const Stream& stream, const std::function<void()>& enqueue) {
  Graph graph;
  graph.graph_ = Owned<GraphHandle, DestroyGraph>(new simt::Graph);
  device().BeginCapture(stream.handle(), graph.graph_.get());
  enqueue();
  device().EndCapture(stream.handle());
  return graph;
}

void Graph::Launch(const Stream& stream) const { device().Replay(*graph_.get(), stream.handle()); }

DeviceMemory DeviceMemory::TryAllocate(size_t size_bytes) {
  DeviceMemory memory;
  if (size_bytes == 0) return memory;
  memory.memory_ = Owned<void*, FreeDeviceMemory>(device().Allocate(size_bytes));
  memory.size_bytes_ = memory.memory_.get() == nullptr ? 0 : size_bytes;
  return memory;
}

DeviceMemory::DeviceMemory(size_t size_bytes) {
  *this = TryAllocate(size_bytes);
  CHECK_EQ(size_bytes_, size_bytes) << "bytes of device memory";
}

PinnedMemory::PinnedMemory(size_t size_bytes) : size_bytes_(size_bytes) {
  if (size_bytes > 0) {
    memory_ = Owned<void*, FreePinnedMemory>(device().AllocatePinned(size_bytes));
  }
}

void CopyToDevice(void* to, const void* host, size_t size_bytes) {
  device().CopyToDevice(to, host, size_bytes);
}
void CopyToHost(void* host, const void* from, size_t size_bytes) {
  device().CopyToHost(host, from, size_bytes);
}
void CopyToDeviceAsync(void* to, const void* pinned, size_t size_bytes, const Stream& stream) {
  device().CopyToDeviceAsync(to, pinned, size_bytes, stream.handle());
}
void CopyToHostAsync(void* pinned, const void* from, size_t size_bytes, const Stream& stream) {
  device().CopyToHostAsync(pinned, from, size_bytes, stream.handle());
}
void CopyOnDeviceAsync(void* to, const void* from, size_t size_bytes, const Stream& stream) {
  device().CopyOnDeviceAsync(to, from, size_bytes, stream.handle());
}
void FillAsync(void* to, uint8_t value, size_t size_bytes, const Stream& stream) {
  device().FillAsync(to, value, size_bytes, stream.handle());
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
