#include "server/device.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "kernels/cuda/make_backend.h"

namespace tessera {
namespace {

constexpr std::string_view kCudaPrefix = "cuda:";
constexpr DType kCudaType = DType::kBf16;

CpuIsa IsaNamed(const std::string& name) {
  const auto* found = std::find_if(std::begin(kCpuIsaNames), std::end(kCpuIsaNames),
                                   [&](const CpuIsaName& known) { return name == known.name; });
  CHECK(found != std::end(kCpuIsaNames)) << name;
  return found->isa;
}

absl::StatusOr<ServingDevice> OpenCpu(const ServerOptions& options) {
  const CpuIsa isa = IsaNamed(options.cpu_isa);
  if (isa != CpuIsa::kAuto && !IsSupported(isa)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cpu-isa: expected one that this CPU can run, got ", options.cpu_isa));
  }
  ServingDevice device;
  device.backend = MakeCpuBackend({.num_threads = options.num_threads, .isa = isa});
  return device;
}

// What others have taken of the device counts as used.
std::function<uint64_t()> BytesForPages(uint64_t memory_bytes, double utilization) {
  const auto usable = static_cast<uint64_t>(static_cast<double>(memory_bytes) * utilization);
  return [memory_bytes, usable] {
    const uint64_t used = memory_bytes - std::min<uint64_t>(memory_bytes, cuda::FreeDeviceBytes());
    return usable > used ? usable - used : 0;
  };
}

absl::StatusOr<ServingDevice> OpenCuda(int index, double utilization) {
  CudaBackendOrError opened = cuda::MakeBackend({.device = index, .type = kCudaType});
  if (opened.backend == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("device: expected a GPU that works at cuda:", index, ", got ", opened.error));
  }
  ServingDevice device;
  device.backend = std::move(opened.backend);
  device.is_cuda = true;
  device.efficient_step_rows = 512;
  device.bytes_for_pages = BytesForPages(opened.memory_bytes, utilization);
  return device;
}

}  // namespace

absl::StatusOr<ServingDevice> OpenServingDevice(const ServerOptions& options) {
  if (options.device == "cpu") return OpenCpu(options);
  if (options.device == "auto") {
    absl::StatusOr<ServingDevice> gpu = OpenCuda(0, options.gpu_memory_utilization);
    return gpu.ok() ? std::move(gpu) : OpenCpu(options);
  }
  const std::string_view index = std::string_view(options.device).substr(kCudaPrefix.size());
  int number = -1;
  const auto [end, error] = std::from_chars(index.data(), index.data() + index.size(), number);
  if (error != std::errc() || end != index.data() + index.size() || number < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("device: expected auto, cpu or cuda:N, got ", options.device));
  }
  return OpenCuda(number, options.gpu_memory_utilization);
}

absl::Status CheckServes(const ServingDevice& device, const GgufFile& file) {
  if (!device.is_cuda) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(file));
  const std::string unsupported = cuda::UnsupportedDimension({.type = kCudaType,
                                                              .head_dim = config.head_dim,
                                                              .rope_dim = config.rope_dim,
                                                              .hidden_dim = config.hidden_dim,
                                                              .ffn_dim = config.ffn_dim});
  if (!unsupported.empty()) return absl::UnimplementedError(unsupported);
  uint64_t weight_bytes = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    weight_bytes += cuda::WeightBytes(kCudaType, tensor.type, tensor.rows(), tensor.cols());
  }
  const uint64_t free_bytes = cuda::FreeDeviceBytes();
  if (weight_bytes <= free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("device memory: expected ", weight_bytes,
                                                   " bytes for weights, got ", free_bytes,
                                                   " free bytes"));
}

}  // namespace tessera
