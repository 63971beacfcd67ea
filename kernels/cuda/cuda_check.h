#pragma once

#include <cuda_runtime.h>

#include <string_view>

namespace tessera::cuda {

// Aborts with the error's name and text, the place, and the call or kernel.
[[noreturn]] void CudaCheckFailed(cudaError_t error, const char* file, int line,
                                  std::string_view call);

}  // namespace tessera::cuda

#define CUDA_CHECK(call)                                                             \
  do {                                                                               \
    const cudaError_t cuda_check_error = (call);                                     \
    if (cuda_check_error != cudaSuccess)                                             \
      ::tessera::cuda::CudaCheckFailed(cuda_check_error, __FILE__, __LINE__, #call); \
  } while (false)
