#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"

// Rows to sample, random and golden, for the samplers of every backend.

namespace tessera {

// One row to sample, with all that SampleRow points to.
struct SamplingQuery {
  std::vector<float> logits;
  SamplingParams params;
  std::vector<TokenCount> seen;
  std::vector<TokenId> banned;
  int64_t position = 0;
  TokenId forced = -1;
  int num_logprobs = -1;  // -1: no logprobs

  // Points to this query.
  SampleRow Row() const;
};

struct SamplingAnswer {
  SampleStatus status = SampleStatus::kOk;
  TokenId token = -1;
  std::vector<std::pair<TokenId, uint32_t>> logprob_bits;

  friend bool operator==(const SamplingAnswer&, const SamplingAnswer&) = default;
};

// What the backend answers, asked for this row alone.
SamplingAnswer Sample(Backend* backend, SamplingQuery query);

// Random requests of every kind.
class SamplingQueryMaker {
 public:
  explicit SamplingQueryMaker(uint32_t seed) : random_(seed) {}

  SamplingQuery Make();

 private:
  int Uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  template <typename T>
  T Pick(std::initializer_list<T> values) {
    return values.begin()[Uniform(0, static_cast<int>(values.size()) - 1)];
  }
  TokenId RandomToken(const SamplingQuery& query) {
    return Uniform(0, static_cast<int>(query.logits.size()) - 1);
  }
  std::vector<float> MakeLogits();
  void AddEdits(SamplingQuery* query);

  std::mt19937 random_;
};

// The lines of one kind of tests/golden/sampling_vectors, without that first word. At least one.
std::vector<std::string> GoldenSamplingLines(const std::string& kind);

float FloatFromBits(const std::string& hex);

// A line of kind "case": what is asked, and the answer that every backend must give.
std::pair<SamplingQuery, SamplingAnswer> ParseGoldenCase(const std::string& line);

}  // namespace tessera
