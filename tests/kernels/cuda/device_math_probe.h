#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/world.h"

// kernels/cuda/device_math.cuh, run on the device.

namespace tessera::TESSERA_CUDA_NAMESPACE {

std::vector<float> DeviceExp2(const std::vector<float>& x);
std::vector<float> DeviceLog(const std::vector<float>& x);
std::vector<float> DeviceNoise(const std::vector<uint32_t>& words);
std::vector<uint64_t> DeviceMasses(const std::vector<float>& scores, float max);
// words[4 * i + j] is word j of draw i.
std::vector<uint32_t> DeviceDrawWords(const std::vector<uint64_t>& seeds,
                                      const std::vector<uint64_t>& positions,
                                      const std::vector<uint32_t>& quads);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
