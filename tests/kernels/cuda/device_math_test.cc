// The device's elementary functions and noise against the CPU's, bit for bit.

#include <bit>
#include <cmath>
#include <random>

#include "base/philox.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/sampling.h"
#include "tests/kernels/cuda/device_math_probe.h"
#include "tests/kernels/cuda/op_cases.h"

namespace tessera::conformance {
namespace {

namespace device = tessera::TESSERA_CUDA_NAMESPACE;

// Every sign and exponent, about 100,000 mantissas; and where a function changes branch.
std::vector<float> BitPatterns() {
  std::vector<float> floats;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 41'999) {
    floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  for (const float x : {0.0f, 126.0f, 127.5f, 128.0f, 0.70710678f, 1.0f, 0x1p-126f, INFINITY}) {
    for (const float y : {x, std::nextafter(x, -1e9f), std::nextafter(x, 1e9f)}) {
      floats.push_back(y);
      floats.push_back(-y);
    }
  }
  return floats;
}

// NaNs may differ in their payload.
void ExpectSameBits(Checker& checker, const std::vector<float>& got,
                    const std::vector<float>& inputs, float (*expected)(float), const char* what) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const float want = expected(inputs[i]);
    if (std::isnan(got[i]) && std::isnan(want)) continue;
    checker.ExpectEqual(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want), what,
                        static_cast<long>(i));
  }
}

void CheckFunctions(Checker& checker) {
  const std::vector<float> inputs = BitPatterns();
  ExpectSameBits(
      checker, device::DeviceExp2(inputs), inputs, [](float x) { return Exp2(x); }, "exp2");
  ExpectSameBits(
      checker, device::DeviceLog(inputs), inputs, [](float x) { return Log(x); }, "log");
}

// As kernels/reference/reference_sampler.cc has it, but in double where that is exact.
void CheckMasses(Checker& checker) {
  const std::vector<float> inputs = BitPatterns();
  for (const float max : {0.0f, 17.25f, -3e38f}) {
    std::vector<float> scores;
    for (const float x : inputs) {
      if (x <= max) scores.push_back(x);
    }
    const std::vector<uint64_t> masses = device::DeviceMasses(scores, max);
    for (size_t i = 0; i < scores.size(); ++i) {
      const double share = Exp2((scores[i] - max) * kLog2E);
      checker.ExpectEqual(masses[i], static_cast<uint64_t>(share * kMassOfMax), "mass",
                          static_cast<long>(i));
    }
  }
}

float CpuNoise(uint32_t word) {
  return -Log(-Log((static_cast<float>(word >> kWordShift) + 0.5f) * kUniformScale));
}

// One word for each 64th value of u, and the ends.
void CheckNoise(Checker& checker) {
  std::vector<uint32_t> words = {0, 511, 512, 0xFFFFFFFFu, 0xFFFFFE00u, 0xFFFFFDFFu};
  for (uint64_t word = 0; word < (uint64_t{1} << 32); word += 64 << kWordShift) {
    words.push_back(static_cast<uint32_t>(word));
  }
  const std::vector<float> noise = device::DeviceNoise(words);
  for (size_t i = 0; i < words.size(); ++i) {
    checker.ExpectEqual(std::bit_cast<uint32_t>(noise[i]),
                        std::bit_cast<uint32_t>(CpuNoise(words[i])), "noise", static_cast<long>(i));
  }
}

void CheckPhilox(Checker& checker) {
  std::mt19937_64 random(1);
  std::vector<uint64_t> seeds = {0, ~uint64_t{0}}, positions = {0, ~uint64_t{0}};
  std::vector<uint32_t> quads = {0, ~0u};
  for (int i = 0; i < 20'000; ++i) {
    seeds.push_back(random());
    positions.push_back(random() >> (i % 64));
    quads.push_back(static_cast<uint32_t>(random()));
  }
  const std::vector<uint32_t> words = device::DeviceDrawWords(seeds, positions, quads);
  for (size_t i = 0; i < quads.size(); ++i) {
    const auto low = static_cast<uint32_t>(positions[i]);
    const auto high = static_cast<uint32_t>(positions[i] >> 32);
    const auto want =
        Philox(seeds[i], {low, high, quads[i], static_cast<uint32_t>(PhiloxPurpose::kSample)});
    for (size_t j = 0; j < 4; ++j) {
      checker.ExpectEqual(words[4 * i + j], want[j], "word", static_cast<long>(4 * i + j));
    }
  }
}

}  // namespace

std::vector<Case> DeviceMathCases() {
  return {{"math: exp2 and log have the CPU's bits", CheckFunctions},
          {"math: masses are the CPU's integers", CheckMasses},
          {"math: noise has the CPU's bits", CheckNoise},
          {"math: Philox draws the CPU's words", CheckPhilox}};
}

}  // namespace tessera::conformance
