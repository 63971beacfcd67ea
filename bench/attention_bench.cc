// Attention over f16 pages at the shapes of SmolLM2-135M and of an 8B model. Counters: useful
// GFLOP/s (visible keys only) of prefill, GB/s of keys and values of decode, and the share of the
// FMA peak that the same threads reach on registers alone. Run pinned and on a quiet machine:
//   taskset -c 0,1 build/release/bin/attention_bench
#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <numeric>
#include <string>
#include <vector>

#include "base/worker_pool.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/rope_store_kv.h"
#include "kernels/dequantize.h"

namespace tessera {
namespace {

struct Shape {
  int num_heads;
  int num_kv_heads;
  int head_dim;
};
constexpr Shape kSmolLm = {9, 3, 64};
constexpr Shape kLlama8B = {32, 8, 128};

float Noise(uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  return static_cast<float>(*state >> 8) * 0x1p-23f - 1.0f;
}

// Sequences of equal length whose last `num_new` tokens are rows of the step, over `num_layers`
// layers of random pages: enough of them that no cache holds all.
class Setup {
 public:
  Setup(const Shape& shape, int num_sequences, int length, int num_new, int num_layers)
      : shape_(shape), num_layers_(num_layers) {
    const KvSpec spec = {shape.num_kv_heads, shape.head_dim};
    const int pages_each = (length + kPageTokens - 1) / kPageTokens;
    uint32_t state = 1;
    for (int i = 0; i < num_sequences; ++i) {
      query_starts_.push_back(num_new * (i + 1));
      kv_lengths_.push_back(length);
      page_starts_.push_back(pages_each * (i + 1));
    }
    page_ids_.resize(static_cast<size_t>(pages_each) * static_cast<size_t>(num_sequences));
    std::iota(page_ids_.begin(), page_ids_.end(), 0);
    batch_ = {query_starts_, kv_lengths_, page_starts_, page_ids_};
    layer_bytes_ = CpuKvPageBytes(spec) * page_ids_.size();
    pages_.resize(layer_bytes_ / 2 * static_cast<size_t>(num_layers));
    for (uint16_t& half : pages_) half = FloatToHalfFinite(Noise(&state));
    const size_t q_elements = static_cast<size_t>(num_new * num_sequences * shape.num_heads) *
                              static_cast<size_t>(shape.head_dim);
    q_.resize(q_elements);
    for (float& x : q_) x = 2.0f * Noise(&state);
    out_.resize(q_elements);
  }

  AttentionParams Layer(int layer) {
    AttentionParams params;
    params.q = q_.data();
    params.q_stride = int64_t{shape_.num_heads} * shape_.head_dim;
    params.out = out_.data();
    params.num_heads = shape_.num_heads;
    params.spec = {shape_.num_kv_heads, shape_.head_dim};
    params.pages = reinterpret_cast<const std::byte*>(pages_.data()) +
                   layer_bytes_ * static_cast<size_t>(layer % num_layers_);
    params.batch = &batch_;
    params.scale = 0.125f;
    return params;
  }
  size_t layer_bytes() const { return layer_bytes_; }

 private:
  Shape shape_;
  int num_layers_;
  std::vector<int32_t> query_starts_ = {0};
  std::vector<int32_t> kv_lengths_;
  std::vector<int32_t> page_starts_ = {0};
  std::vector<int32_t> page_ids_;
  SequenceBatch batch_;
  size_t layer_bytes_ = 0;
  std::vector<uint16_t> pages_;
  std::vector<float> q_;
  std::vector<float> out_;
};

void BM_Prefill(benchmark::State& state, Shape shape, CpuIsa isa) {
  if (!IsSupported(isa)) return state.SkipWithError("not supported here");
  const int threads = static_cast<int>(state.range(0));
  const int length = static_cast<int>(state.range(1));
  WorkerPool pool(threads);
  CpuAttention attention(&pool, isa);
  Setup setup(shape, 1, length, length, 1);
  for (auto _ : state) attention.Run(setup.Layer(0));
  const double flops = 4.0 * shape.num_heads * shape.head_dim * length * (length + 1.0) / 2;
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void BM_Decode(benchmark::State& state, Shape shape, CpuIsa isa) {
  if (!IsSupported(isa)) return state.SkipWithError("not supported here");
  const int threads = static_cast<int>(state.range(0));
  const int length = static_cast<int>(state.range(1));
  const int num_sequences = static_cast<int>(state.range(2));
  constexpr int kLayers = 30;
  WorkerPool pool(threads);
  CpuAttention attention(&pool, isa);
  Setup setup(shape, num_sequences, length, 1, kLayers);
  for (auto _ : state) {
    for (int layer = 0; layer < kLayers; ++layer) attention.Run(setup.Layer(layer));
  }
  state.counters["GB/s"] =
      benchmark::Counter(static_cast<double>(setup.layer_bytes()) * kLayers * 1e-9,
                         benchmark::Counter::kIsIterationInvariantRate);
}

// Twelve independent chains, so that latency hides.
[[gnu::target("avx2,fma")]] float FmaChainsAvx2(int64_t steps) {
  __m256 sums[12];
  for (__m256& sum : sums) sum = _mm256_set1_ps(1.0f);
  const __m256 x = _mm256_set1_ps(0.999f);
  for (int64_t i = 0; i < steps; ++i) {
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, x, x);
  }
  for (const __m256& sum : sums) sums[0] = _mm256_add_ps(sums[0], sum);
  return _mm256_cvtss_f32(sums[0]);
}

[[gnu::target("avx512f")]] float FmaChainsAvx512(int64_t steps) {
  __m512 sums[12];
  for (__m512& sum : sums) sum = _mm512_set1_ps(1.0f);
  const __m512 x = _mm512_set1_ps(0.999f);
  for (int64_t i = 0; i < steps; ++i) {
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, x, x);
  }
  for (const __m512& sum : sums) sums[0] = _mm512_add_ps(sums[0], sum);
  return _mm512_cvtss_f32(sums[0]);
}

void BM_FmaPeak(benchmark::State& state, CpuIsa isa) {
  if (!IsSupported(isa)) return state.SkipWithError("not supported here");
  constexpr int64_t kSteps = 100000;
  WorkerPool pool(static_cast<int>(state.range(0)));
  const bool is_wide = isa == CpuIsa::kAvx512;
  for (auto _ : state) {
    pool.Run([&](int) {
      benchmark::DoNotOptimize(is_wide ? FmaChainsAvx512(kSteps) : FmaChainsAvx2(kSteps));
    });
  }
  const double flops = 2.0 * 12 * kSteps * (is_wide ? 16 : 8) * pool.num_threads();
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

// With one thread rates are per CPU second, which a busy machine disturbs least.
void UseClock(benchmark::internal::Benchmark* bench, int threads) {
  if (threads > 1) bench->UseRealTime();
}

void RegisterPath(const std::string& path, CpuIsa isa, int threads) {
  const auto add = [&](const std::string& name, auto function, auto... shape) {
    return benchmark::RegisterBenchmark((name + "/" + path).c_str(), function, shape..., isa);
  };
  UseClock(add("fma_peak", BM_FmaPeak)->Arg(threads)->ArgName("threads"), threads);
  const std::vector<std::string> prefill_args = {"threads", "length"};
  for (const int length : {512, 2048}) {
    auto* bench = add("prefill_hd64_9over3", BM_Prefill, kSmolLm);
    UseClock(bench->Args({threads, length})->ArgNames(prefill_args), threads);
  }
  auto* wide = add("prefill_hd128_32over8", BM_Prefill, kLlama8B);
  UseClock(wide->Args({threads, 512})->ArgNames(prefill_args), threads);
  for (const auto& [length, sequences] :
       {std::pair{256, 1}, {2048, 1}, {2048, 8}, {160, 8}, {160, 32}}) {
    auto* bench = add("decode_30_layers_hd64_9over3", BM_Decode, kSmolLm);
    UseClock(
        bench->Args({threads, length, sequences})->ArgNames({"threads", "length", "sequences"}),
        threads);
  }
}

void RegisterAll() {
  std::vector<int> thread_counts = {1};
  if (NumUsableCpus() > 1) thread_counts.push_back(NumUsableCpus());
  for (const int threads : thread_counts) {
    RegisterPath("avx512", CpuIsa::kAvx512, threads);
    RegisterPath("avx2", CpuIsa::kAvx2, threads);
  }
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::RegisterAll();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
