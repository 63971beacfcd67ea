#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/fault_context.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"

namespace tessera::cuda {
namespace {

int Attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

int CurrentDevice() {
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string DescribeSetupError(cudaError_t error) {
  int driver = 0;
  int runtime = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  const std::string driver_text = driver == 0 ? "none found" : VersionText(driver);
  return std::string(cudaGetErrorString(error)) + " (driver for CUDA " + driver_text +
         ", this build needs " + VersionText(runtime) + ")";
}

DeviceProperties ReadProperties(int device) {
  cudaDeviceProp raw;
  CUDA_CHECK(cudaGetDeviceProperties(&raw, device));
  DeviceProperties properties{.name = raw.name,
                              .compute_major = raw.major,
                              .compute_minor = raw.minor,
                              .num_sms = raw.multiProcessorCount,
                              .total_memory_bytes = raw.totalGlobalMem,
                              .l2_bytes = static_cast<size_t>(raw.l2CacheSize),
                              .max_shared_bytes_per_block = raw.sharedMemPerBlockOptin,
                              .shared_bytes_per_sm = raw.sharedMemPerMultiprocessor};
  CUDA_CHECK(cudaDriverGetVersion(&properties.driver_version));
  CUDA_CHECK(cudaRuntimeGetVersion(&properties.runtime_version));
  return properties;
}

}  // namespace

void CudaCheckFailed(cudaError_t error, const char* file, int line, std::string_view call) {
  std::fprintf(stderr, "%s:%d: CUDA error %s (%s) in %.*s; %s\n", file, line,
               cudaGetErrorName(error), cudaGetErrorString(error), static_cast<int>(call.size()),
               call.data(), fault_context);
  std::abort();
}

std::string OpenDevice(int device, DeviceProperties* properties) {
  int num_devices = 0;
  cudaError_t error = cudaGetDeviceCount(&num_devices);
  if (error != cudaSuccess) return DescribeSetupError(error);
  if (device < 0 || device >= num_devices) {
    return "device " + std::to_string(device) + " does not exist: " + std::to_string(num_devices) +
           " found";
  }
  error = cudaSetDevice(device);
  if (error != cudaSuccess) return DescribeSetupError(error);
  *properties = ReadProperties(device);
  if (properties->compute_major < 8) {
    return properties->name + " has compute capability " +
           std::to_string(properties->compute_major) + "." +
           std::to_string(properties->compute_minor) + "; expected 8.0 or later";
  }
  return "";
}

size_t FreeDeviceBytes() {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  return free_bytes;
}

void DestroyStream(StreamHandle stream) { CUDA_CHECK(cudaStreamDestroy(stream)); }
void DestroyEvent(EventHandle event) { CUDA_CHECK(cudaEventDestroy(event)); }
void DestroyGraph(GraphHandle graph) { CUDA_CHECK(cudaGraphExecDestroy(graph)); }
void FreeDeviceMemory(void* memory) { CUDA_CHECK(cudaFree(memory)); }
void FreePinnedMemory(void* memory) { CUDA_CHECK(cudaFreeHost(memory)); }

Stream::Stream() {
  StreamHandle handle = nullptr;
  CUDA_CHECK(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking));
  stream_ = Owned<StreamHandle, DestroyStream>(handle);
}

void Stream::Synchronize() const { CUDA_CHECK(cudaStreamSynchronize(handle())); }

void Stream::WaitFor(const Event& event) const {
  CUDA_CHECK(cudaStreamWaitEvent(handle(), event.handle()));
}

Event::Event() {
  EventHandle handle = nullptr;
  CUDA_CHECK(cudaEventCreate(&handle));
  event_ = Owned<EventHandle, DestroyEvent>(handle);
}

void Event::Record(const Stream& stream) const {
  CUDA_CHECK(cudaEventRecord(handle(), stream.handle()));
}

void Event::Synchronize() const { CUDA_CHECK(cudaEventSynchronize(handle())); }

bool Event::IsDone() const {
  const cudaError_t state = cudaEventQuery(handle());
  if (state == cudaErrorNotReady) return false;
  CUDA_CHECK(state);
  return true;
}

double MillisecondsBetween(const Event& begin, const Event& end) {
  float milliseconds = 0;
  CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin.handle(), end.handle()));
  return milliseconds;
}

Graph Graph::Capture(const Stream& stream, const std::function<void()>& enqueue) {
  CUDA_CHECK(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal));
  enqueue();
  cudaGraph_t recorded = nullptr;
  CUDA_CHECK(cudaStreamEndCapture(stream.handle(), &recorded));
  GraphHandle handle = nullptr;
  CUDA_CHECK(cudaGraphInstantiate(&handle, recorded, 0));
  CUDA_CHECK(cudaGraphDestroy(recorded));
  Graph graph;
  graph.graph_ = Owned<GraphHandle, DestroyGraph>(handle);
  return graph;
}

void Graph::Launch(const Stream& stream) const {
  CUDA_CHECK(cudaGraphLaunch(graph_.get(), stream.handle()));
}

DeviceMemory DeviceMemory::TryAllocate(size_t size_bytes) {
  DeviceMemory memory;
  if (size_bytes == 0) return memory;
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, size_bytes);
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // or the next launch would report it
    return memory;
  }
  CUDA_CHECK(error);
  memory.memory_ = Owned<void*, FreeDeviceMemory>(data);
  memory.size_bytes_ = size_bytes;
  return memory;
}

DeviceMemory::DeviceMemory(size_t size_bytes) {
  *this = TryAllocate(size_bytes);
  if (size_bytes_ != size_bytes) {
    CudaCheckFailed(cudaErrorMemoryAllocation, __FILE__, __LINE__,
                    "an allocation of " + std::to_string(size_bytes) + " bytes");
  }
}

PinnedMemory::PinnedMemory(size_t size_bytes) : size_bytes_(size_bytes) {
  if (size_bytes == 0) return;
  void* data = nullptr;
  CUDA_CHECK(cudaMallocHost(&data, size_bytes));
  memory_ = Owned<void*, FreePinnedMemory>(data);
}

void CopyToDevice(void* device, const void* host, size_t size_bytes) {
  CUDA_CHECK(cudaMemcpy(device, host, size_bytes, cudaMemcpyHostToDevice));
  // The call above may return when pageable memory has been staged, and our streams do not wait for
  // the stream that it uses.
  CUDA_CHECK(cudaStreamSynchronize(cudaStreamLegacy));
}

void CopyToHost(void* host, const void* device, size_t size_bytes) {
  CUDA_CHECK(cudaMemcpy(host, device, size_bytes, cudaMemcpyDeviceToHost));
}

void CopyToDeviceAsync(void* device, const void* pinned, size_t size_bytes, const Stream& stream) {
  CUDA_CHECK(cudaMemcpyAsync(device, pinned, size_bytes, cudaMemcpyHostToDevice, stream.handle()));
}

void CopyToHostAsync(void* pinned, const void* device, size_t size_bytes, const Stream& stream) {
  CUDA_CHECK(cudaMemcpyAsync(pinned, device, size_bytes, cudaMemcpyDeviceToHost, stream.handle()));
}

void CopyOnDeviceAsync(void* to, const void* from, size_t size_bytes, const Stream& stream) {
  CUDA_CHECK(cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDeviceToDevice, stream.handle()));
}

void FillAsync(void* device, uint8_t value, size_t size_bytes, const Stream& stream) {
  CUDA_CHECK(cudaMemsetAsync(device, value, size_bytes, stream.handle()));
}

void AllowLargeShared(const void* kernel, std::string_view name) {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaSuccess) {
    const int limit = Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, CurrentDevice());
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 limit - static_cast<int>(attributes.sharedSizeBytes));
  }
  if (error != cudaSuccess) CudaCheckFailed(error, __FILE__, __LINE__, name);
}

void LaunchErased(const void* kernel, std::string_view name, const Stream& stream, dim3 grid,
                  dim3 block, size_t shared_bytes, void** arguments) {
  const cudaError_t error =
      cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream.handle());
  if (error == cudaSuccess) return;
  const std::string context =
      "launch of " + std::string(name) + ", grid " + std::to_string(grid.x) + " x " +
      std::to_string(grid.y) + " x " + std::to_string(grid.z) + ", block " +
      std::to_string(block.x) + " x " + std::to_string(block.y) + " x " + std::to_string(block.z) +
      ", " + std::to_string(shared_bytes) + " bytes of dynamic shared memory";
  CudaCheckFailed(error, __FILE__, __LINE__, context);
}

}  // namespace tessera::cuda
