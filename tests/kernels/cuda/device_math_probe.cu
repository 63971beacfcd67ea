#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"
#include "tests/kernels/cuda/device_math_probe.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 256;

struct Exp2Of {
  __device__ float operator()(float x) const { return Exp2(x); }
};
struct LogOf {
  __device__ float operator()(float x) const { return Log(x); }
};
struct NoiseOfWord {
  __device__ float operator()(uint32_t word) const { return NoiseOf(word); }
};
struct MassBelow {
  float max;
  __device__ uint64_t operator()(float score) const { return MassOf(score, max); }
};

template <typename In, typename Out, typename Function>
__global__ void MapKernel(const In* in, Out* out, int size, Function function) {
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i < size) out[i] = function(in[i]);
}

template <typename Out, typename In, typename Function>
std::vector<Out> Map(const std::vector<In>& in, Function function) {
  const DeviceArray<In> device_in(in);
  const DeviceArray<Out> device_out(in.size());
  const Stream stream;
  const auto num_blocks = static_cast<unsigned>((in.size() + kThreads - 1) / kThreads);
  Launch<MapKernel<In, Out, Function>>(stream, num_blocks, kThreads, 0, device_in.data(),
                                       device_out.data(), static_cast<int>(in.size()), function);
  stream.Synchronize();
  return device_out.ToHost();
}

__global__ void DrawKernel(const uint64_t* seeds, const uint64_t* positions, const uint32_t* quads,
                           uint32_t* words, int size) {
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i >= size) return;
  const PhiloxWords draw = DrawWords(seeds[i], positions[i], quads[i]);
  for (int j = 0; j < 4; ++j) words[4 * i + j] = draw.word[j];
}

}  // namespace

std::vector<float> DeviceExp2(const std::vector<float>& x) { return Map<float>(x, Exp2Of{}); }
std::vector<float> DeviceLog(const std::vector<float>& x) { return Map<float>(x, LogOf{}); }
std::vector<float> DeviceNoise(const std::vector<uint32_t>& words) {
  return Map<float>(words, NoiseOfWord{});
}
std::vector<uint64_t> DeviceMasses(const std::vector<float>& scores, float max) {
  return Map<uint64_t>(scores, MassBelow{max});
}

std::vector<uint32_t> DeviceDrawWords(const std::vector<uint64_t>& seeds,
                                      const std::vector<uint64_t>& positions,
                                      const std::vector<uint32_t>& quads) {
  const DeviceArray<uint64_t> device_seeds(seeds), device_positions(positions);
  const DeviceArray<uint32_t> device_quads(quads), words(4 * quads.size());
  const Stream stream;
  const auto num_blocks = static_cast<unsigned>((quads.size() + kThreads - 1) / kThreads);
  Launch<DrawKernel>(stream, num_blocks, kThreads, 0, device_seeds.data(), device_positions.data(),
                     device_quads.data(), words.data(), static_cast<int>(quads.size()));
  stream.Synchronize();
  return words.ToHost();
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
