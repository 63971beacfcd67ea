#pragma once

#include "kernels/cuda/instr.h"
#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// out = normalised x * weight (+ bias), rounded once to T; x is the fp32 residual stream. With an
// addend (T), x += addend first, and the sum is stored.
//
// One row by 256 lanes: lane j takes elements 4 j .. 4 j + 3, then those 1,024 further on, by FMA;
// the lanes of a warp are added as a tree 16, 8, 4, 2, 1, then the warps in order.
struct NormParams {
  float* x = nullptr;             // [num_rows, dim], written only where there is an addend
  const void* addend = nullptr;   // [num_rows, dim] of T, or null
  const float* weight = nullptr;  // [dim]
  const float* bias = nullptr;    // [dim] or null; LayerNorm alone
  float epsilon = 0.0f;
  int num_rows = 0;
  int dim = 0;          // a multiple of 4
  void* out = nullptr;  // [num_rows, dim] of T
};

// (x / sqrt(mean(x^2) + epsilon)) * weight.
template <typename T>
void RmsNorm(const NormParams& params, const Stream& stream);

// ((x - mean) / sqrt(mean((x - mean)^2) + epsilon)) * weight + bias.
template <typename T>
void LayerNorm(const NormParams& params, const Stream& stream);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
