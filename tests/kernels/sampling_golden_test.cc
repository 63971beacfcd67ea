#include <bit>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/philox.h"
#include "gtest/gtest.h"
#include "kernels/cpu/sample_kernels.h"
#include "tests/kernels/backend_cases.h"

// Every sampler against tests/golden/sampling_vectors, which an independent Python script made,
// down to the last bit.

namespace tessera {
namespace {

float FromBits(const std::string& hex) {
  return std::bit_cast<float>(static_cast<uint32_t>(std::stoul(hex, nullptr, 16)));
}

std::vector<std::string> SplitList(const std::string& text) {
  std::vector<std::string> items;
  if (text == "-") return items;
  std::istringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) items.push_back(item);
  return items;
}

std::pair<TokenId, std::string> SplitPair(const std::string& item) {
  const size_t colon = item.find(':');
  return {std::stoi(item.substr(0, colon)), item.substr(colon + 1)};
}

// The lines of one kind, without that first word.
std::vector<std::string> GoldenLines(const std::string& kind) {
  std::ifstream file(TESSERA_GOLDEN_DIR "/sampling_vectors");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(kind + " ")) lines.push_back(line.substr(kind.size() + 1));
  }
  EXPECT_FALSE(lines.empty()) << "no line of kind " << kind;
  return lines;
}

// The logits of make_sampling_vectors.py.
std::vector<float> MakeLogits(const std::string& kind, uint32_t salt, size_t vocab_size) {
  std::vector<float> logits(vocab_size);
  for (size_t i = 0; i < vocab_size; ++i) {
    uint32_t h = static_cast<uint32_t>(i) + salt * 0x9E3779B9u;
    h = (h ^ (h >> 16)) * 0x7FEB352Du;
    h = (h ^ (h >> 15)) * 0x846CA68Bu;
    h ^= h >> 16;
    const float uniform = (static_cast<float>(h >> 12) - 0x1p19f) * 0x1p-15f;
    if (kind == "ties") logits[i] = static_cast<float>(h >> 28) - 8.0f;
    if (kind == "uniform" || kind == "infinite") logits[i] = uniform;
    if (kind == "peaked") logits[i] = 0.25f * uniform;
    if (kind == "huge") logits[i] = uniform * 0x1p122f;
    if (kind == "negative") logits[i] = (uniform + 17.0f) * -0x1p122f;
  }
  if (kind == "peaked") logits[salt % vocab_size] = 20.0f;
  if (kind == "infinite") logits[salt % vocab_size] = std::numeric_limits<float>::infinity();
  return logits;
}

struct GoldenCase {
  std::vector<float> logits;
  SamplingParams params;
  std::vector<TokenCount> seen;
  std::vector<TokenId> banned;
  SampleRow row;
  SampleStatus status = SampleStatus::kOk;
  TokenId token = -1;
  std::vector<std::pair<TokenId, uint32_t>> logprob_bits;
};

SampleStatus ParseStatus(const std::string& text) {
  if (text == "non_finite") return SampleStatus::kNonFiniteLogits;
  return text == "ok" ? SampleStatus::kOk : SampleStatus::kNoTokenLeft;
}

void ParseParams(std::istream& in, GoldenCase* golden) {
  size_t vocab_size = 0;
  uint32_t salt = 0;
  std::string kind, temperature, top_p, min_p, repetition, frequency, presence;
  SamplingParams& params = golden->params;
  in >> vocab_size >> kind >> salt >> temperature >> params.top_k >> top_p >> min_p >> repetition >>
      frequency >> presence >> params.seed >> golden->row.position;
  golden->logits = MakeLogits(kind, salt, vocab_size);
  params.temperature = FromBits(temperature);
  params.top_p = FromBits(top_p);
  params.min_p = FromBits(min_p);
  params.repetition_penalty = FromBits(repetition);
  params.frequency_penalty = FromBits(frequency);
  params.presence_penalty = FromBits(presence);
}

void ParseLists(std::istream& in, GoldenCase* golden) {
  std::string biases, seen, banned;
  in >> biases >> seen >> banned >> golden->row.forced >> golden->row.num_logprobs;
  for (const std::string& item : SplitList(biases)) {
    const auto [token, bits] = SplitPair(item);
    golden->params.logit_bias.emplace_back(token, FromBits(bits));
  }
  for (const std::string& item : SplitList(seen)) {
    const auto [token, count] = SplitPair(item);
    golden->seen.push_back({token, std::stoi(count)});
  }
  for (const std::string& item : SplitList(banned)) golden->banned.push_back(std::stoi(item));
}

GoldenCase ParseCase(const std::string& line) {
  std::istringstream in(line);
  GoldenCase golden;
  ParseParams(in, &golden);
  ParseLists(in, &golden);
  std::string arrow, status, logprobs;
  in >> arrow >> status >> golden.token >> logprobs;
  EXPECT_TRUE(in) << line;
  golden.status = ParseStatus(status);
  for (const std::string& item : SplitList(logprobs)) {
    const auto [token, bits] = SplitPair(item);
    golden.logprob_bits.emplace_back(token, std::bit_cast<uint32_t>(FromBits(bits)));
  }
  golden.row.wants_logprob = true;
  return golden;
}

class SamplingGoldenTest : public testing::TestWithParam<BackendCase> {};

TEST_P(SamplingGoldenTest, ChoosesTheGoldenTokensWithTheGoldenLogprobs) {
  const std::unique_ptr<Backend> backend = GetParam().make();
  for (const std::string& line : GoldenLines("case")) {
    GoldenCase golden = ParseCase(line);
    golden.row.params = &golden.params;
    golden.row.seen = golden.seen;
    golden.row.banned = golden.banned;
    std::vector<TokenLogprob> room(static_cast<size_t>(golden.row.num_logprobs) + 1);
    SampleResult result;
    result.logprobs = room;
    backend->Sample(golden.logits.data(), static_cast<int64_t>(golden.logits.size()),
                    {&golden.row, 1}, {&result, 1});
    EXPECT_EQ(result.status, golden.status) << line;
    EXPECT_EQ(result.token, golden.token) << line;
    ASSERT_EQ(result.logprobs.size(), golden.logprob_bits.size()) << line;
    for (size_t i = 0; i < golden.logprob_bits.size(); ++i) {
      EXPECT_EQ(result.logprobs[i].token, golden.logprob_bits[i].first) << line;
      EXPECT_EQ(std::bit_cast<uint32_t>(result.logprobs[i].logprob), golden.logprob_bits[i].second)
          << line << ": entry " << i;
    }
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
  for (const std::string& line : GoldenLines("noise")) {
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
    EXPECT_EQ(std::bit_cast<uint32_t>(totals[15]), std::bit_cast<uint32_t>(FromBits(noise)))
        << line;
  }
}

TEST_P(SampleKernelsGoldenTest, GivesTheGoldenMasses) {
  for (const std::string& line : GoldenLines("mass")) {
    std::istringstream in(line);
    std::string score, max;
    uint64_t mass = 0;
    in >> score >> max >> mass;
    const float value = FromBits(score);
    uint64_t result = 0;
    GetParam().kernels->masses(&value, 1, FromBits(max), &result);
    EXPECT_EQ(result, mass) << line;
    EXPECT_EQ(GetParam().kernels->sum_masses(&value, 1, FromBits(max)), mass) << line;
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, SampleKernelsGoldenTest, testing::ValuesIn(SupportedKernels()),
                         [](const auto& param) { return param.param.name; });

TEST(ForkSeedGoldenTest, DerivesTheGoldenSeeds) {
  for (const std::string& line : GoldenLines("fork")) {
    std::istringstream in(line);
    uint64_t seed = 0, derived = 0;
    int index = 0;
    in >> seed >> index >> derived;
    EXPECT_EQ(ForkSeed(seed, index), derived) << line;
  }
}

}  // namespace
}  // namespace tessera
