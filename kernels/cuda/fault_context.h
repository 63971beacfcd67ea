#pragma once

#include "kernels/cuda/world.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// What the process is about on its device, as text: a device fault shows in some later call, whose
// message says this too. Written by the backend's thread.
inline char fault_context[160] = "no step yet";

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
