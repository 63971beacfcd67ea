#pragma once

#include "kernels/cuda/instr.h"
#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

enum class Activation : uint8_t {
  kSwiGlu,  // silu(gate) * up
  kGeGlu,   // gelu(gate) * up, gelu by its tanh approximation
};

// out = act(gate) * up, in fp32, rounded once to T. silu(g) = g * sigmoid(g); gelu(g) =
// g * sigmoid(2 sqrt(2 / pi) (g + 0.044715 g^3)); sigmoid by the approximations of instr.h.
struct ActivationParams {
  const void* gate_up = nullptr;  // [num_rows, 2 * dim] of T, gate first
  int num_rows = 0;
  int dim = 0;          // a multiple of 8
  void* out = nullptr;  // [num_rows, dim] of T
};

template <typename T>
void GatedActivation(Activation activation, const ActivationParams& params, const Stream& stream);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
