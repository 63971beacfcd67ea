#include "base/check.h"
#include "kernels/cuda/activation.h"
#include "kernels/cuda/launch.h"
#include "kernels/sampling.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 8;

// 1 / (1 + e^-x).
__device__ float SigmoidApprox(float x) { return RcpApprox(1.0f + Exp2Approx(x * -kLog2E)); }

template <Activation kActivation>
__device__ float Gate(float gate) {
  if constexpr (kActivation == Activation::kSwiGlu) {
    return gate * SigmoidApprox(gate);
  } else {
    constexpr float kTwoSqrtTwoOverPi = 1.5957691f;
    const float cubic = FmaRn(gate * gate * gate, 0.044715f, gate);
    return gate * SigmoidApprox(kTwoSqrtTwoOverPi * cubic);
  }
}

template <typename T, Activation kActivation>
__device__ uint32_t ActivatePair(uint32_t gate_bits, uint32_t up_bits) {
  const float2 gate = Unpack2<T>(gate_bits);
  const float2 up = Unpack2<T>(up_bits);
  return Pack2<T>(Gate<kActivation>(gate.x) * up.x, Gate<kActivation>(gate.y) * up.y);
}

// grid: (vectors of a row, rows).
template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads) ActivationKernel(ActivationParams params) {
  const int i = (static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x)) * kVector;
  if (i >= params.dim) return;
  const int64_t row = blockIdx.y;
  const T* gate = static_cast<const T*>(params.gate_up) + row * 2 * params.dim + i;
  const uint4 g = Load16(gate);
  const uint4 u = Load16(gate + params.dim);
  Store16(
      static_cast<T*>(params.out) + row * params.dim + i,
      make_uint4(ActivatePair<T, kActivation>(g.x, u.x), ActivatePair<T, kActivation>(g.y, u.y),
                 ActivatePair<T, kActivation>(g.z, u.z), ActivatePair<T, kActivation>(g.w, u.w)));
}

template <typename T, Activation kActivation>
void LaunchActivation(const ActivationParams& params, const Stream& stream) {
  const dim3 grid(static_cast<unsigned>((params.dim / kVector + kThreads - 1) / kThreads),
                  static_cast<unsigned>(params.num_rows));
  Launch<ActivationKernel<T, kActivation>>(stream, grid, kThreads, 0, params);
}

}  // namespace

template <typename T>
void GatedActivation(Activation activation, const ActivationParams& params, const Stream& stream) {
  CHECK_EQ(params.dim % kVector, 0);
  if (params.num_rows == 0) return;
  if (activation == Activation::kSwiGlu) {
    LaunchActivation<T, Activation::kSwiGlu>(params, stream);
  } else {
    LaunchActivation<T, Activation::kGeGlu>(params, stream);
  }
}

template void GatedActivation<Bf16>(Activation, const ActivationParams&, const Stream&);
template void GatedActivation<Fp16>(Activation, const ActivationParams&, const Stream&);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
