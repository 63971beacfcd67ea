#include <bit>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend_cases.h"
#include "tests/kernels/op_runner.h"

// The one statement of docs/numerics.md, op by op: a row alone has the bits it has in any batch,
// and every instruction set and thread count of a CPU gives the same bits.

namespace tessera {
namespace {

void ExpectSameBits(const Floats& actual, const Floats& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  if (std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(float)) == 0) return;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(expected[i]))
        << what << ", element " << i << ": " << actual[i] << " and " << expected[i];
  }
}

Floats Rows(const Floats& x, int64_t first, int64_t count, int64_t dim) {
  return {x.begin() + first * dim, x.begin() + (first + count) * dim};
}

void Append(const Floats& more, Floats* all) { all->insert(all->end(), more.begin(), more.end()); }

constexpr int64_t kNumRows = 150;
// Ways to cut kNumRows rows into calls.
const std::vector<std::vector<int64_t>> kCuts = {
    std::vector<int64_t>(kNumRows, 1), {150}, {2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 73}, {149, 1}};

// run(x) maps rows of in_dim to rows; its output must not depend on the cut.
template <typename Run>
void ExpectRowsIndependent(const Floats& x, int64_t in_dim, const std::string& what,
                           const Run& run) {
  Floats expected;
  for (const std::vector<int64_t>& cut : kCuts) {
    Floats actual;
    int64_t first = 0;
    for (const int64_t count : cut) {
      Append(run(Rows(x, first, count, in_dim)), &actual);
      first += count;
    }
    if (expected.empty()) expected = actual;
    ExpectSameBits(actual, expected, what + " in " + std::to_string(cut.size()) + " calls");
  }
}

class ReproducibilityTest : public testing::TestWithParam<BackendCase> {
 protected:
  bool HasDim(int64_t dim) const { return dim % GetParam().dim_multiple == 0; }
  // Whose bits the backend's must be: the contract's on a CPU, else its own.
  Backend* contract() const { return GetParam().has_cpu_bits ? portable_.get() : backend_.get(); }

  const std::unique_ptr<Backend> backend_ = GetParam().make();
  // The contract itself, as plain loops.
  const std::unique_ptr<Backend> portable_ =
      MakeCpuBackend({.num_threads = 1, .isa = CpuIsa::kPortable});
};

TEST_P(ReproducibilityTest, RmsNorm) {
  for (const int64_t dim : {17, 576, 2056}) {
    if (!HasDim(dim)) continue;
    const Floats x = ActivationFloats(kNumRows * dim, 1);
    const Floats weight = NormalFloats(dim, 2);
    const auto run = [&](Backend* backend, const Floats& rows) {
      return RunRmsNorm(backend, rows, weight, 1e-5f);
    };
    ExpectRowsIndependent(x, dim, "RmsNorm",
                          [&](const Floats& rows) { return run(backend_.get(), rows); });
    ExpectSameBits(run(backend_.get(), x), run(contract(), x), "RmsNorm and contract");
  }
}

TEST_P(ReproducibilityTest, AddRmsNormIsAddThenRmsNorm) {
  constexpr int64_t kDim = 104;
  const Floats x = RoundToActivations(*backend_, ActivationFloats(kNumRows * kDim, 1));
  const Floats residual = NormalFloats(kNumRows * kDim, 2);
  const Floats weight = NormalFloats(kDim, 3);
  const Floats both = RunAddRmsNorm(backend_.get(), x, residual, weight, 1e-5f);
  Floats expected = residual;
  for (size_t i = 0; i < x.size(); ++i) expected[i] += x[i];
  Append(RunRmsNorm(contract(), expected, weight, 1e-5f), &expected);
  ExpectSameBits(both, expected, "AddRmsNorm");
}

TEST_P(ReproducibilityTest, SwiGlu) {
  for (const int64_t dim : {17, 1536}) {
    if (!HasDim(dim)) continue;
    const Floats x = ActivationFloats(kNumRows * 2 * dim, 3);
    ExpectRowsIndependent(x, 2 * dim, "SwiGlu",
                          [&](const Floats& rows) { return RunSwiGlu(backend_.get(), rows, dim); });
    ExpectSameBits(RunSwiGlu(backend_.get(), x, dim), RunSwiGlu(contract(), x, dim),
                   "SwiGlu and contract");
  }
}

TEST_P(ReproducibilityTest, Linear) {
  for (const DType type : kAllDTypes) {
    const int64_t cols = BlockElements(type) == 256 ? 512 : 160;
    const Floats x = ActivationFloats(kNumRows * cols, 4);
    const auto make_run = [&](Backend* backend) {
      const std::shared_ptr<PackedWeight> first = MakeWeight(backend, type, 70, cols, 5);
      const std::shared_ptr<PackedWeight> second = MakeWeight(backend, type, 3, cols, 6);
      return [=](const Floats& rows) {
        return RunLinear(backend, rows, {first.get(), second.get()});
      };
    };
    const auto run = make_run(backend_.get());
    ExpectRowsIndependent(x, cols, std::string(Name(type)), run);
    ExpectSameBits(run(x), make_run(contract())(x), std::string(Name(type)));
  }
}

const AttentionShape kShapes[] = {
    {.num_heads = 6, .spec = {.num_kv_heads = 2, .head_dim = 64}, .rope_dim = 64},
    {.num_heads = 2, .spec = {.num_kv_heads = 2, .head_dim = 40}, .rope_dim = 20},
    {.num_heads = 3,
     .spec = {.num_kv_heads = 1, .head_dim = 64},
     .rope_dim = 64,
     .window = 50,
     .softcap = 20.0f},
};

// Sequence 0 of 290 tokens, alone or beside three others, in the given chunks.
Floats RunSequence(Backend* backend, const AttentionShape& shape, const std::vector<int>& chunks,
                   bool alone) {
  AttentionRun run(backend, shape, {77, 78, 79, 80}, 640);
  int step = 0;
  for (const int chunk : chunks) {
    const int neighbour = alone ? 0 : chunks.size() > 10 ? 1 : 1 + step++ % 3 * 20;
    run.Step({chunk, neighbour, alone ? 0 : 1, neighbour});
  }
  return run.output(0);
}

TEST_P(ReproducibilityTest, AttentionIsTheSameInAnyChunksBesideAnyNeighbours) {
  const std::vector<std::vector<int>> chunkings = {
      {290}, {100, 100, 90}, {1, 63, 1, 191, 34}, {260, 1, 1, 1, 27}, {255, 1, 1, 33}};
  for (const AttentionShape& shape : kShapes) {
    if (!GetParam().SupportsHeadDim(shape.spec.head_dim)) continue;
    const Floats expected = RunSequence(contract(), shape, {290}, true);
    ExpectSameBits(RunSequence(backend_.get(), shape, {290}, true), expected, "alone");
    for (const std::vector<int>& chunks : chunkings) {
      ExpectSameBits(RunSequence(backend_.get(), shape, chunks, false), expected,
                     std::to_string(chunks.size()) + " chunks");
    }
  }
}

TEST_P(ReproducibilityTest, AttentionOneTokenAtATime) {
  const Floats expected = RunSequence(contract(), kShapes[0], {290}, true);
  const std::vector<int> tokens(290, 1);
  ExpectSameBits(RunSequence(backend_.get(), kShapes[0], tokens, false), expected, "decode");
}

TEST_P(ReproducibilityTest, WhatAPageHeldBeforeDoesNotShow) {
  AttentionRun clean(backend_.get(), kShapes[0], {1}, 128);
  clean.Step({70});
  AttentionRun reused(backend_.get(), kShapes[0], {2}, 128);
  const float infinity = std::numeric_limits<float>::infinity();
  for (int index = 0; index < 10 * 64; ++index) reused.Poison(0, 100, index, infinity);
  reused.Step({128});
  reused.Restart(0, 1);
  reused.Step({70});
  ExpectSameBits(Floats(reused.output(0).begin() + 128 * 6 * 64, reused.output(0).end()),
                 clean.output(0), "reused page");
}

struct SampledRow {
  TokenId token;
  std::vector<uint32_t> logprob_bits;
};

// Samples rows [first, first + count) of the same 60 requests.
std::vector<SampledRow> SampleRows(Backend* backend, size_t first, size_t count) {
  constexpr size_t kVocab = 3000;
  Floats logits;
  std::vector<SamplingParams> params(count);
  std::vector<SampleRow> rows(count);
  std::vector<std::vector<TokenLogprob>> room(count, std::vector<TokenLogprob>(6));
  std::vector<SampleResult> results(count);
  for (size_t i = 0; i < count; ++i) {
    const auto id = static_cast<uint32_t>(first + i);
    Append(ActivationFloats(kVocab, id), &logits);
    params[i].temperature = id % 4 == 0 ? 0.0f : 0.8f;
    params[i].top_p = id % 3 == 0 ? 0.9f : 1.0f;
    params[i].top_k = id % 5 == 0 ? 50 : 0;
    params[i].seed = id;
    rows[i].params = &params[i];
    rows[i].position = id;
    rows[i].wants_logprob = true;
    rows[i].num_logprobs = 5;
    results[i].logprobs = room[i];
  }
  const DeviceBuffer device_logits = UploadFloats(backend, logits);
  backend->Sample(device_logits.As<float>(), kVocab, rows, results);
  backend->Synchronize();
  std::vector<SampledRow> sampled;
  for (const SampleResult& result : results) {
    SampledRow row{result.token, {}};
    for (const TokenLogprob& entry : result.logprobs) {
      row.logprob_bits.push_back(std::bit_cast<uint32_t>(entry.logprob));
    }
    sampled.push_back(row);
  }
  return sampled;
}

TEST_P(ReproducibilityTest, Sample) {
  constexpr size_t kRows = 60;
  const std::vector<SampledRow> expected = SampleRows(portable_.get(), 0, kRows);
  const std::vector<SampledRow> together = SampleRows(backend_.get(), 0, kRows);
  for (size_t i = 0; i < kRows; ++i) {
    const SampledRow alone = SampleRows(backend_.get(), i, 1)[0];
    EXPECT_EQ(alone.token, expected[i].token) << i;
    EXPECT_EQ(alone.logprob_bits, expected[i].logprob_bits) << i;
    EXPECT_EQ(together[i].token, expected[i].token) << i;
    EXPECT_EQ(together[i].logprob_bits, expected[i].logprob_bits) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, ReproducibilityTest, testing::ValuesIn(TestedCases()),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace tessera
