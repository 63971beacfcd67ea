#include <bit>
#include <sstream>
#include <string>
#include <vector>

#include "base/philox.h"
#include "gtest/gtest.h"
#include "kernels/cpu/sample_kernels.h"
#include "tests/kernels/backend_cases.h"
#include "tests/kernels/sampling_cases.h"

// Every sampler against tests/golden/sampling_vectors, which an independent Python script made,
// down to the last bit.

namespace tessera {
namespace {

class SamplingGoldenTest : public testing::TestWithParam<BackendCase> {};

TEST_P(SamplingGoldenTest, ChoosesTheGoldenTokensWithTheGoldenLogprobs) {
  const std::unique_ptr<Backend> backend = GetParam().make();
  for (const std::string& line : GoldenSamplingLines("case")) {
    const auto [query, golden] = ParseGoldenCase(line);
    const SamplingAnswer answer = Sample(backend.get(), query);
    EXPECT_EQ(answer.status, golden.status) << line;
    EXPECT_EQ(answer.token, golden.token) << line;
    EXPECT_EQ(answer.logprob_bits, golden.logprob_bits) << line;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, SamplingGoldenTest, testing::ValuesIn(AllCases()),
                         [](const auto& param) { return param.param.name; });

struct KernelsCase {
  std::string name;
  CpuIsa isa;
  const SampleKernels* kernels;
};

std::vector<KernelsCase> SupportedKernels() {
  std::vector<KernelsCase> cases;
  for (const KernelsCase& kernels :
       {KernelsCase{"portable", CpuIsa::kPortable, &kSampleKernelsPortable},
        KernelsCase{"avx2", CpuIsa::kAvx2, &kSampleKernelsAvx2},
        KernelsCase{"avx512", CpuIsa::kAvx512, &kSampleKernelsAvx512}}) {
    if (IsSupported(kernels.isa)) cases.push_back(kernels);
  }
  return cases;
}

class SampleKernelsGoldenTest : public testing::TestWithParam<KernelsCase> {};

TEST_P(SampleKernelsGoldenTest, DrawsTheGoldenNoise) {
  for (const std::string& line : GoldenSamplingLines("noise")) {
    std::istringstream in(line);
    uint64_t seed = 0, position = 0;
    uint32_t token = 0;
    std::string word, noise;
    in >> seed >> position >> token >> word >> noise;
    NoiseBlock block;
    GetParam().kernels->draw_block(seed, position, token / 64 * 64, 0.0f, &block);
    const uint32_t drawn = block.words[token % 64 % 4 * 16 + token % 64 / 4];
    EXPECT_EQ(drawn, std::stoul(word, nullptr, 16)) << line;

    const std::vector<float> scores(16, 0.0f);
    const std::vector<uint32_t> words(16, drawn);
    std::vector<float> totals(16);
    GetParam().kernels->add_noise(scores.data(), words.data(), totals.data());
    EXPECT_EQ(std::bit_cast<uint32_t>(totals[15]), std::bit_cast<uint32_t>(FloatFromBits(noise)))
        << line;
  }
}

TEST_P(SampleKernelsGoldenTest, GivesTheGoldenMasses) {
  for (const std::string& line : GoldenSamplingLines("mass")) {
    std::istringstream in(line);
    std::string score, max;
    uint64_t mass = 0;
    in >> score >> max >> mass;
    const float value = FloatFromBits(score);
    uint64_t result = 0;
    GetParam().kernels->masses(&value, 1, FloatFromBits(max), &result);
    EXPECT_EQ(result, mass) << line;
    EXPECT_EQ(GetParam().kernels->sum_masses(&value, 1, FloatFromBits(max)), mass) << line;
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, SampleKernelsGoldenTest, testing::ValuesIn(SupportedKernels()),
                         [](const auto& param) { return param.param.name; });

TEST(ForkSeedGoldenTest, DerivesTheGoldenSeeds) {
  for (const std::string& line : GoldenSamplingLines("fork")) {
    std::istringstream in(line);
    uint64_t seed = 0, derived = 0;
    int index = 0;
    in >> seed >> index >> derived;
    EXPECT_EQ(ForkSeed(seed, index), derived) << line;
  }
}

}  // namespace
}  // namespace tessera
