#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "kernels/cuda/half_bits.h"
#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

struct BenchOptions {
  bool small = false;  // shapes that the simulated device can run
  int num_runs = 20;
};

// Times work on a stream, each time with nothing of its data in L2.
class Timer {
 public:
  Timer(const DeviceProperties& device, const BenchOptions& options)
      : num_runs_(options.num_runs), flush_(options.small ? 1024 : 4 * device.l2_bytes) {}

  const Stream& stream() const { return stream_; }

  double MedianMs(const std::function<void()>& work) {
    work();
    std::vector<double> times;
    for (int i = 0; i < num_runs_; ++i) {
      FillAsync(flush_.data(), static_cast<uint8_t>(i), flush_.size_bytes(), stream_);
      begin_.Record(stream_);
      work();
      end_.Record(stream_);
      stream_.Synchronize();
      times.push_back(MillisecondsBetween(begin_, end_));
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

 private:
  const int num_runs_;
  Stream stream_;
  DeviceMemory flush_;
  Event begin_, end_;
};

// Normally distributed 16-bit values; a large array repeats a million of them.
inline DeviceMemory RandomMemory(size_t size_bytes) {
  constexpr size_t kPoolBytes = size_t{2} << 20;
  std::vector<uint16_t> pool(std::min(size_bytes, kPoolBytes) / 2);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (uint16_t& bits : pool) bits = FloatToBf16Bits(normal(random));
  DeviceMemory memory(size_bytes);
  for (size_t offset = 0; offset < size_bytes; offset += pool.size() * 2) {
    CopyToDevice(memory.data() + offset, pool.data(),
                 std::min(pool.size() * 2, size_bytes - offset));
  }
  return memory;
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
