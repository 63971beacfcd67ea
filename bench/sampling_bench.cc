#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <vector>

#include "kernels/backend.h"

// One row of logits of the default model's vocabulary on one thread.

namespace tessera {
namespace {

constexpr int64_t kVocabSize = 49152;

// Normal logits with three likely tokens on top, or without: nearly flat.
std::vector<float> MakeLogits(bool is_flat) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, is_flat ? 1.0f : 2.5f);
  std::vector<float> logits(kVocabSize);
  for (float& logit : logits) logit = normal(random);
  if (is_flat) return logits;
  logits[100] = 14.0f;
  logits[2000] = 13.0f;
  logits[30000] = 12.0f;
  return logits;
}

void Sample(benchmark::State& state, CpuIsa isa, SamplingParams params, bool is_flat,
            int num_logprobs) {
  if (!IsSupported(isa)) return state.SkipWithError("this machine lacks the instructions");
  const std::unique_ptr<Backend> backend = MakeCpuBackend({.num_threads = 1, .isa = isa});
  std::vector<float> logits = MakeLogits(is_flat);
  std::vector<TokenLogprob> room(21);
  SampleRow row;
  row.params = &params;
  row.num_logprobs = num_logprobs;
  row.wants_logprob = num_logprobs > 0;
  for (auto _ : state) {
    SampleResult result;
    result.logprobs = room;
    ++row.position;
    backend->Sample(logits.data(), kVocabSize, {&row, 1}, {&result, 1});
    benchmark::DoNotOptimize(result.token);
  }
  state.SetLabel(isa == CpuIsa::kAvx2 ? "avx2" : "avx512");
}

SamplingParams Params(float temperature, int top_k, float top_p) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.seed = 7;
  return params;
}

void RegisterAll(CpuIsa isa) {
  const auto add = [isa](const char* name, const SamplingParams& params, bool is_flat = false,
                         int num_logprobs = 0) {
    benchmark::RegisterBenchmark(name, Sample, isa, params, is_flat, num_logprobs)
        ->Unit(benchmark::kMicrosecond);
  };
  add("greedy", Params(0.0f, 0, 1.0f));
  add("greedy_5_logprobs", Params(0.0f, 0, 1.0f), false, 5);
  add("temperature_1", Params(1.0f, 0, 1.0f));
  add("temperature_0.7_top_p_0.95", Params(0.7f, 0, 0.95f));
  add("temperature_1_top_k_40_top_p_0.95", Params(1.0f, 40, 0.95f));
  add("flat_temperature_1_top_p_0.95", Params(1.0f, 0, 0.95f), true);
  add("flat_top_k_20000_top_p_0.9", Params(1.0f, 20000, 0.9f), true);
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  tessera::RegisterAll(tessera::CpuIsa::kAvx2);
  tessera::RegisterAll(tessera::CpuIsa::kAvx512);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
