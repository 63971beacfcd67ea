#pragma once

// Every source of kernels/cuda is built twice (docs/cuda.md): for the device, in namespace
// tessera::cuda, and, where TESSERA_SIMT is defined, for the CPU by way of kernels/simt, in
// tessera::cuda_shim. Sources say `namespace tessera::TESSERA_CUDA_NAMESPACE {`.

#ifdef TESSERA_SIMT
#include "kernels/simt/simt.h"
#define TESSERA_CUDA_NAMESPACE cuda_shim
#else
#include <cuda_runtime.h>
#define TESSERA_CUDA_NAMESPACE cuda
#endif

// Unrolls the loop that follows, so that arrays it indexes can live in registers.
#ifdef __CUDACC__
#define TESSERA_UNROLL _Pragma("unroll")
#else
#define TESSERA_UNROLL
#endif
