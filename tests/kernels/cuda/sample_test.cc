// The device's sampler: the golden vectors, and the CPU backend's answers to thousands of random
// rows. Tokens, statuses and the bits of every log-probability must be equal: masses are integers,
// whose sums have no order, and all else is one rounding after another.

#include "kernels/cuda/sample.h"

#include <bit>
#include <map>
#include <memory>
#include <sstream>
#include <string>

#include "tests/kernels/cuda/op_cases.h"
#include "tests/kernels/cuda/op_inputs.h"
#include "tests/kernels/sampling_cases.h"

namespace tessera::conformance {
namespace {

using Queries = std::vector<SamplingQuery>;
using Answers = std::vector<SamplingAnswer>;

// Rows of one vocabulary, in one launch.
Answers SampleOnDevice(const Queries& queries) {
  const size_t vocab_size = queries[0].logits.size();
  std::vector<float> logits;
  std::vector<SampleRow> rows;
  for (const SamplingQuery& query : queries) {
    logits.insert(logits.end(), query.logits.begin(), query.logits.end());
    rows.push_back(query.Row());
  }
  const DeviceMemory packed(PackedSampleRowsBytes(rows));
  std::vector<char> host(packed.size_bytes());
  SampleParams params;
  params.rows = PackSampleRows(rows, SlotMemory(), host.data(), packed.data());
  CopyToDevice(packed.data(), host.data(), host.size());
  const DeviceArray<float> device_logits(logits);
  const int num_rows = static_cast<int>(rows.size());
  const DeviceMemory workspace(SampleWorkspaceBytes(num_rows, static_cast<int64_t>(vocab_size)));
  const DeviceArray<DeviceSampleResult> device_results(rows.size());
  params.logits = device_logits.data();
  params.vocab_size = static_cast<int64_t>(vocab_size);
  params.num_rows = num_rows;
  params.workspace = workspace.data();
  params.results = device_results.data();
  const Stream stream;
  Sample(params, stream);
  stream.Synchronize();
  Answers answers;
  for (const DeviceSampleResult& result : device_results.ToHost()) {
    SamplingAnswer answer{result.status, result.token, {}};
    for (int i = 0; i < result.num_logprobs; ++i) {
      const TokenLogprob& entry = result.logprobs[i];
      answer.logprob_bits.emplace_back(entry.token, std::bit_cast<uint32_t>(entry.logprob));
    }
    answers.push_back(std::move(answer));
  }
  return answers;
}

std::string Describe(const SamplingAnswer& answer) {
  std::ostringstream text;
  text << "status " << static_cast<int>(answer.status) << ", token " << answer.token;
  for (const auto& [token, bits] : answer.logprob_bits) {
    text << " " << token << ":" << std::bit_cast<float>(bits);
  }
  return text.str();
}

void ExpectSame(Checker& checker, const SamplingAnswer& got, const SamplingAnswer& want,
                const std::string& what) {
  checker.Expect(got == want, what + ": got " + Describe(got) + ", expected " + Describe(want));
}

void CheckGolden(Checker& checker) {
  for (const std::string& line : GoldenSamplingLines("case")) {
    const auto [query, want] = ParseGoldenCase(line);
    ExpectSame(checker, SampleOnDevice({query})[0], want, line);
  }
}

// Rows of one vocabulary share a launch; the first of each launch also runs alone.
void ExpectCpuAnswers(Checker& checker, const Queries& queries) {
  const std::unique_ptr<Backend> cpu = MakeCpuBackend({.num_threads = 1});
  std::map<size_t, Queries> by_vocab_size;
  for (const SamplingQuery& query : queries) by_vocab_size[query.logits.size()].push_back(query);
  for (const auto& [vocab_size, group] : by_vocab_size) {
    const Answers answers = SampleOnDevice(group);
    for (size_t i = 0; i < group.size(); ++i) {
      ExpectSame(checker, answers[i], Sample(cpu.get(), group[i]),
                 "row " + std::to_string(i) + " of vocabulary " + std::to_string(vocab_size));
    }
    ExpectSame(checker, SampleOnDevice({group[0]})[0], answers[0], "alone");
  }
}

void CheckRandom(Checker& checker) {
  Queries queries;
  for (uint32_t seed = 0; seed < 2000; ++seed) queries.push_back(SamplingQueryMaker(seed).Make());
  ExpectCpuAnswers(checker, queries);
}

// Vocabularies so large, and scores so much alike, that selection takes several rounds, by score
// and then by id.
void CheckLargeAndTied(Checker& checker) {
  Queries queries;
  for (int kind = 0; kind < 8; ++kind) {
    SamplingQuery query;
    query.logits = RandomFloats(30'011, 2.0f, static_cast<uint32_t>(kind));
    for (float& logit : query.logits) {
      if (kind == 1) logit = 0.0f;                              // all equal
      if (kind == 2) logit = std::round(logit);                 // thousands of each
      if (kind == 3) logit = logit > 0 ? 0x1p-149f : -0.0f;     // subnormal steps
      if (kind == 4) logit *= 1.5e37f;                          // differences that overflow
      if (kind == 5) logit = 1e-6f * std::floor(logit * 2000);  // narrow
    }
    if (kind == 6) query.logits[29'000] = 60.0f;
    query.params.seed = static_cast<uint64_t>(kind) * 0x9E3779B97F4A7C15u;
    query.position = int64_t{1} << (4 * kind);
    query.num_logprobs = 20;
    for (const int top_k : {0, 1, 7, 1024, 1025, 5000, 30'010}) {
      for (const float top_p : {1.0f, 0.97f, 0.3f}) {
        query.params.top_k = top_k;
        query.params.top_p = top_p;
        query.params.temperature = top_k == 7 ? 0.7f : 1.0f;
        queries.push_back(query);
      }
    }
  }
  ExpectCpuAnswers(checker, queries);
}

void CheckBadRows(Checker& checker) {
  Queries queries;
  for (const float bad : {INFINITY, -INFINITY, NAN, -NAN}) {
    for (const size_t at : {0u, 31u, 1023u, 1024u, 1999u}) {
      SamplingQuery query;
      query.logits = RandomFloats(2000, 1.0f, 1);
      query.logits[at] = bad;
      query.banned = {static_cast<TokenId>(at)};
      query.forced = at == 31 ? 5 : -1;
      query.num_logprobs = 2;
      queries.push_back(query);
    }
  }
  SamplingQuery nothing_left;
  nothing_left.logits = RandomFloats(2000, 1.0f, 2);
  for (TokenId token = 0; token < 2000; ++token) nothing_left.banned.push_back(token);
  nothing_left.num_logprobs = 3;
  queries.push_back(nothing_left);
  nothing_left.forced = 7;
  queries.push_back(nothing_left);
  ExpectCpuAnswers(checker, queries);
}

// Tokens biased more than once, in an order that rounding can tell.
void CheckRepeatedBias(Checker& checker) {
  Queries queries;
  for (int i = 0; i < 20; ++i) {
    SamplingQuery query;
    query.logits = RandomFloats(100, 1.0f, static_cast<uint32_t>(i));
    query.params.temperature = 0.0f;
    query.params.logit_bias = {{3, 99.9f}, {7, 1e-7f}, {3, -99.87f},
                               {7, 0.3f},  {3, 1e-6f}, {static_cast<TokenId>(i), 0.03f}};
    queries.push_back(query);
    query.params.temperature = 1.3f;
    queries.push_back(query);
  }
  ExpectCpuAnswers(checker, queries);
}

}  // namespace

std::vector<Case> SampleCases() {
  return {{"sample: golden vectors to the bit", CheckGolden},
          {"sample: the CPU's answers to random rows", CheckRandom},
          {"sample: the CPU's answers where many tie", CheckLargeAndTied},
          {"sample: broken rows, and rows without a token", CheckBadRows},
          {"sample: tokens biased more than once", CheckRepeatedBias}};
}

}  // namespace tessera::conformance
