#include "kernels/cuda/make_backend.h"

// In place of tessera_cuda where there is no nvcc.

namespace tessera::cuda {

CudaBackendOrError MakeBackend(const CudaBackendOptions& /*options*/) {
  CudaBackendOrError result;
  result.error = "this build has no CUDA";
  return result;
}

std::string UnsupportedDimension(const CudaModelShape& /*shape*/) { return ""; }

uint64_t WeightBytes(DType /*activations*/, DType /*file_type*/, int64_t /*rows*/,
                     int64_t /*cols*/) {
  return 0;
}

size_t FreeDeviceBytes() { return 0; }

}  // namespace tessera::cuda
