#include "tests/kernels/sampling_cases.h"

#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>

#include "base/check.h"

namespace tessera {
namespace {

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

// The logits of make_sampling_vectors.py.
std::vector<float> MakeGoldenLogits(const std::string& kind, uint32_t salt, size_t vocab_size) {
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

SampleStatus ParseStatus(const std::string& text) {
  if (text == "non_finite") return SampleStatus::kNonFiniteLogits;
  return text == "ok" ? SampleStatus::kOk : SampleStatus::kNoTokenLeft;
}

void ParseParams(std::istream& in, SamplingQuery* query) {
  size_t vocab_size = 0;
  uint32_t salt = 0;
  std::string kind, temperature, top_p, min_p, repetition, frequency, presence;
  SamplingParams& params = query->params;
  in >> vocab_size >> kind >> salt >> temperature >> params.top_k >> top_p >> min_p >> repetition >>
      frequency >> presence >> params.seed >> query->position;
  query->logits = MakeGoldenLogits(kind, salt, vocab_size);
  params.temperature = FloatFromBits(temperature);
  params.top_p = FloatFromBits(top_p);
  params.min_p = FloatFromBits(min_p);
  params.repetition_penalty = FloatFromBits(repetition);
  params.frequency_penalty = FloatFromBits(frequency);
  params.presence_penalty = FloatFromBits(presence);
}

void ParseLists(std::istream& in, SamplingQuery* query) {
  std::string biases, seen, banned;
  in >> biases >> seen >> banned >> query->forced >> query->num_logprobs;
  for (const std::string& item : SplitList(biases)) {
    const auto [token, bits] = SplitPair(item);
    query->params.logit_bias.emplace_back(token, FloatFromBits(bits));
  }
  for (const std::string& item : SplitList(seen)) {
    const auto [token, count] = SplitPair(item);
    query->seen.push_back({token, std::stoi(count)});
  }
  for (const std::string& item : SplitList(banned)) query->banned.push_back(std::stoi(item));
}

}  // namespace

SampleRow SamplingQuery::Row() const {
  return {.params = &params,
          .position = position,
          .seen = seen,
          .banned = banned,
          .forced = forced,
          .num_logprobs = std::max(0, num_logprobs),
          .wants_logprob = num_logprobs >= 0};
}

SamplingAnswer Sample(Backend* backend, SamplingQuery query) {
  const SampleRow row = query.Row();
  std::vector<TokenLogprob> room(static_cast<size_t>(row.num_logprobs) + 1);
  SampleResult result;
  result.logprobs = room;
  backend->Sample(query.logits.data(), static_cast<int64_t>(query.logits.size()), {&row, 1},
                  {&result, 1});
  SamplingAnswer answer{result.status, result.token, {}};
  for (const TokenLogprob& entry : result.logprobs) {
    answer.logprob_bits.emplace_back(entry.token, std::bit_cast<uint32_t>(entry.logprob));
  }
  return answer;
}

SamplingQuery SamplingQueryMaker::Make() {
  SamplingQuery query;
  query.logits = MakeLogits();
  query.position = Uniform(0, 1 << 20);
  query.params.seed = random_();
  query.params.temperature = Pick<float>({0.0f, 0.3f, 0.9f, 1.0f, 1.0f, 1.7f, 40.0f});
  query.params.top_k = Pick<int>({0, 0, -1, 1, 2, 5, 40, 64, 1000});
  query.params.top_p = Pick<float>({1.0f, 1.0f, 0.999f, 0.9f, 0.5f, 0.01f});
  query.params.min_p = Pick<float>({0.0f, 0.0f, 0.001f, 0.1f, 0.9f});
  query.num_logprobs = Pick<int>({-1, 0, 1, 5, 20});
  if (Uniform(0, 2) == 0) AddEdits(&query);
  return query;
}

std::vector<float> SamplingQueryMaker::MakeLogits() {
  const int vocab_size = Pick<int>({1, 2, 3, 16, 63, 64, 65, 130, 1000, 2077, 5000});
  const float spread = Pick<float>({0.0f, 1.0f, 3.0f, 12.0f});
  const float grain = Pick<float>({0.0f, 0.0f, 0.25f, 2.0f});  // coarse grains make ties
  std::normal_distribution<float> normal;
  std::vector<float> logits(static_cast<size_t>(vocab_size));
  for (float& logit : logits) {
    logit = normal(random_) * spread;
    if (grain > 0) logit = std::round(logit / grain) * grain;
  }
  return logits;
}

void SamplingQueryMaker::AddEdits(SamplingQuery* query) {
  SamplingParams& params = query->params;
  params.repetition_penalty = Pick<float>({1.0f, 1.3f, 0.5f});
  params.frequency_penalty = Pick<float>({0.0f, 0.7f, -1.0f});
  params.presence_penalty = Pick<float>({0.0f, 1.5f, -2.0f});
  std::map<TokenId, int32_t> seen;
  for (int i = Uniform(0, 30); i > 0; --i) seen[RandomToken(*query)] = Uniform(0, 4);
  for (const auto& [token, count] : seen) query->seen.push_back({token, count});
  for (int i = Uniform(0, 5); i > 0; --i) query->banned.push_back(RandomToken(*query));
  for (int i = Uniform(0, 5); i > 0; --i) {
    const float bias = Pick<float>({-100.0f, 2.5f, 9.0f});
    params.logit_bias.emplace_back(RandomToken(*query), bias);
  }
}

float FloatFromBits(const std::string& hex) {
  return std::bit_cast<float>(static_cast<uint32_t>(std::stoul(hex, nullptr, 16)));
}

std::vector<std::string> GoldenSamplingLines(const std::string& kind) {
  std::ifstream file(TESSERA_GOLDEN_DIR "/sampling_vectors");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(kind + " ")) lines.push_back(line.substr(kind.size() + 1));
  }
  CHECK(!lines.empty()) << "no line of kind " << kind;
  return lines;
}

std::pair<SamplingQuery, SamplingAnswer> ParseGoldenCase(const std::string& line) {
  std::istringstream in(line);
  SamplingQuery query;
  SamplingAnswer answer;
  ParseParams(in, &query);
  ParseLists(in, &query);
  std::string arrow, status, logprobs;
  in >> arrow >> status >> answer.token >> logprobs;
  CHECK(in) << line;
  answer.status = ParseStatus(status);
  for (const std::string& item : SplitList(logprobs)) {
    const auto [token, bits] = SplitPair(item);
    answer.logprob_bits.emplace_back(token, std::bit_cast<uint32_t>(FloatFromBits(bits)));
  }
  return {std::move(query), std::move(answer)};
}

}  // namespace tessera
