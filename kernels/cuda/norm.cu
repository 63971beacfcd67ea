#include "base/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kVector = 4;

__device__ float4 LoadFloat4(const float* p) { return *reinterpret_cast<const float4*>(p); }

template <typename T>
__device__ float4 LoadHalf4(const T* p) {
  const uint2 bits = *reinterpret_cast<const uint2*>(p);
  const float2 low = Unpack2<T>(bits.x);
  const float2 high = Unpack2<T>(bits.y);
  return make_float4(low.x, low.y, high.x, high.y);
}

// Every thread gets the sum.
__device__ float BlockSum(float value) {
  TESSERA_SHARED(float[kWarps], warp_sums);
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
  }
  __syncthreads();  // the last sum's readers are done
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = warp_sums[0];
  for (int warp = 1; warp < kWarps; ++warp) sum += warp_sums[warp];
  return sum;
}

// Calls body(i) for the first element of each of this thread's vectors.
template <typename Body>
__device__ void ForEachVector(int dim, const Body& body) {
  for (int i = static_cast<int>(threadIdx.x) * kVector; i < dim; i += kThreads * kVector) body(i);
}

template <typename T>
__device__ void AddRow(const T* addend, int dim, float* x) {
  ForEachVector(dim, [&](int i) {
    const float4 a = LoadFloat4(x + i);
    const float4 b = LoadHalf4(addend + i);
    *reinterpret_cast<float4*>(x + i) = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
  });
}

// The sum of (x - center)^2 of this thread's elements.
__device__ float SquareSum(const float* x, int dim, float center) {
  float sum = 0.0f;
  ForEachVector(dim, [&](int i) {
    const float4 v = LoadFloat4(x + i);
    sum = FmaRn(v.x - center, v.x - center, sum);
    sum = FmaRn(v.y - center, v.y - center, sum);
    sum = FmaRn(v.z - center, v.z - center, sum);
    sum = FmaRn(v.w - center, v.w - center, sum);
  });
  return sum;
}

__device__ float Mean(const float* x, int dim) {
  float sum = 0.0f;
  ForEachVector(dim, [&](int i) {
    const float4 v = LoadFloat4(x + i);
    sum = (((sum + v.x) + v.y) + v.z) + v.w;
  });
  return DivRn(BlockSum(sum), static_cast<float>(dim));
}

// One block a row. A thread reads back only what it wrote itself.
template <typename T, bool kCentered>
__global__ void __launch_bounds__(kThreads) NormKernel(NormParams params) {
  const int64_t row_begin = int64_t{blockIdx.x} * params.dim;
  float* x = params.x + row_begin;
  if (params.addend != nullptr) {
    AddRow(static_cast<const T*>(params.addend) + row_begin, params.dim, x);
  }
  const float center = kCentered ? Mean(x, params.dim) : 0.0f;
  const float square_sum = BlockSum(SquareSum(x, params.dim, center));
  const float mean_square = DivRn(square_sum, static_cast<float>(params.dim));
  const float scale = DivRn(1.0f, SqrtRn(mean_square + params.epsilon));

  T* out = static_cast<T*>(params.out) + row_begin;
  ForEachVector(params.dim, [&](int i) {
    const float4 v = LoadFloat4(x + i);
    const float4 w = LoadFloat4(params.weight + i);
    float4 b = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (kCentered && params.bias != nullptr) b = LoadFloat4(params.bias + i);
    const uint32_t low =
        Pack2<T>(((v.x - center) * scale) * w.x + b.x, ((v.y - center) * scale) * w.y + b.y);
    const uint32_t high =
        Pack2<T>(((v.z - center) * scale) * w.z + b.z, ((v.w - center) * scale) * w.w + b.w);
    *reinterpret_cast<uint2*>(out + i) = make_uint2(low, high);
  });
}

template <typename T, bool kCentered>
void LaunchNorm(const NormParams& params, const Stream& stream) {
  CHECK_EQ(params.dim % kVector, 0);
  if (params.num_rows == 0) return;
  Launch<NormKernel<T, kCentered>>(stream, static_cast<unsigned>(params.num_rows), kThreads, 0,
                                   params);
}

}  // namespace

template <typename T>
void RmsNorm(const NormParams& params, const Stream& stream) {
  LaunchNorm<T, false>(params, stream);
}

template <typename T>
void LayerNorm(const NormParams& params, const Stream& stream) {
  LaunchNorm<T, true>(params, stream);
}

template void RmsNorm<Bf16>(const NormParams&, const Stream&);
template void RmsNorm<Fp16>(const NormParams&, const Stream&);
template void LayerNorm<Bf16>(const NormParams&, const Stream&);
template void LayerNorm<Fp16>(const NormParams&, const Stream&);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
