#pragma once

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/dtype.h"

// The CUDA backend for whoever knows nothing of CUDA: includes none of its headers.

namespace tessera {

struct CudaBackendOptions {
  int device = 0;
  DType type = DType::kBf16;  // of activations, keys and values: kBf16 or kF16
};

struct CudaBackendOrError {
  std::unique_ptr<Backend> backend;  // null: see error
  std::string error;                 // what is wrong with driver, device or architecture
};

// One backend a process: it makes the device the process's. Its name is its device class
// (docs/numerics.md), e.g. "cuda.sm_80.bf16.NVIDIA_H200.132".
namespace cuda {
CudaBackendOrError MakeBackend(const CudaBackendOptions& options);
}  // namespace cuda

// The same sources on the simulated device (docs/cuda.md).
namespace cuda_shim {
CudaBackendOrError MakeBackend(const CudaBackendOptions& options);
}  // namespace cuda_shim

}  // namespace tessera
