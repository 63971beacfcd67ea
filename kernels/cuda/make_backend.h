#pragma once

#include <cstddef>
#include <cstdint>
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
  uint64_t memory_bytes = 0;         // of the whole device
  std::string error;                 // what is wrong with driver, device or architecture
};

// What a model asks of the kernels that were built.
struct CudaModelShape {
  DType type = DType::kBf16;  // of activations
  int head_dim = 0;
  int rope_dim = 0;
  int hidden_dim = 0;
  int ffn_dim = 0;
};

// One backend a process: it makes the device the process's. Its name is its device class
// (docs/numerics.md), e.g. "cuda.sm_80.bf16.NVIDIA_H200.132".
namespace cuda {
CudaBackendOrError MakeBackend(const CudaBackendOptions& options);
// Which dimension no kernel was built for; empty: none.
std::string UnsupportedDimension(const CudaModelShape& shape);
// That a weight of a file takes on the device.
uint64_t WeightBytes(DType activations, DType file_type, int64_t rows, int64_t cols);
size_t FreeDeviceBytes();
}  // namespace cuda

// The same sources on the simulated device (docs/cuda.md).
namespace cuda_shim {
CudaBackendOrError MakeBackend(const CudaBackendOptions& options);
std::string UnsupportedDimension(const CudaModelShape& shape);
uint64_t WeightBytes(DType activations, DType file_type, int64_t rows, int64_t cols);
size_t FreeDeviceBytes();
}  // namespace cuda_shim

}  // namespace tessera
