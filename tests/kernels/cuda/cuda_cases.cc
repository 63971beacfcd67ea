#include "base/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/make_backend.h"
#include "tests/kernels/backend_cases.h"

namespace tessera {
namespace {

namespace device = TESSERA_CUDA_NAMESPACE;

BackendCase CudaCase(std::string name, DType type) {
  BackendCase result = {.name = std::move(name), .make = [type] {
                          auto opened = device::MakeBackend({.device = 0, .type = type});
                          CHECK(opened.backend != nullptr) << opened.error;
                          return std::move(opened.backend);
                        }};
  result.has_cpu_bits = false;
  result.dim_multiple = 8;
  for (const int head_dim : {64, 80, 96, 128, 192, 256}) {
    if (device::AttentionSupports(type, head_dim)) result.head_dims.push_back(head_dim);
  }
  return result;
}

}  // namespace

std::vector<BackendCase> TestedCases() {
  std::vector<BackendCase> cases = {CudaCase("bf16", DType::kBf16)};
  if (device::AttentionSupports(DType::kF16, 64)) cases.push_back(CudaCase("fp16", DType::kF16));
  return cases;
}

}  // namespace tessera
