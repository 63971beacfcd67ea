// Matrix products: all of SmolLM2-135M's for one step (Q4_1 layers, Q8_0 head), and one matrix in
// every format. Counters: GB/s of packed weights and GOP/s (2 M N K), beside the multiply-add rate
// that the same threads reach on registers alone and the rate at which they read memory. Run on a
// quiet machine; rates of one thread are per CPU second, which a busy machine disturbs least:
//   build/release/bin/linear_bench --benchmark_filter=smollm2
#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/worker_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/dequantize.h"

namespace tessera {
namespace {

float Noise(uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  return static_cast<float>(*state >> 8) * 0x1p-23f - 1.0f;
}

std::vector<float> RandomActivations(int64_t count) {
  uint32_t state = 1;
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) value = Noise(&state);
  return x;
}

// Speed does not depend on the values as long as neither they nor their sums are infinite or
// denormal: bytes from 0x30 to 0x3F make every f16, bf16 and fp32 a number from 1e-10 to 2.
std::unique_ptr<CpuWeight> MakeWeight(DType type, int64_t rows, int64_t cols) {
  static WeightArena arena;
  auto weight = std::make_unique<CpuWeight>(type, rows, cols, &arena);
  std::vector<std::byte> row(RowBytes(type, cols));
  uint32_t state = 7;
  for (int64_t r = 0; r < rows; ++r) {
    for (std::byte& byte : row) byte = static_cast<std::byte>(Noise(&state) * 8.0f + 56.0f);
    weight->PackRows(r, 1, row.data());
  }
  return weight;
}

void SetRates(benchmark::State& state, double bytes, double operations) {
  const auto rate = [](double value) {
    return benchmark::Counter(value * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  };
  state.counters["GB/s"] = rate(bytes);
  state.counters["GOP/s"] = rate(operations);
}

struct Layer {
  std::unique_ptr<CpuWeight> q, k, v, o, gate, up, down;
};

// The matrices of SmolLM2-135M in the order a step takes them.
class Model {
 public:
  static constexpr int64_t kDim = 576;
  static constexpr int64_t kHidden = 1536;
  static constexpr int64_t kVocab = 49152;

  Model() : head_(MakeWeight(DType::kQ8_0, kVocab, kDim)) {
    const auto matrix = [](int64_t rows, int64_t cols) {
      return MakeWeight(DType::kQ4_1, rows, cols);
    };
    for (int i = 0; i < 30; ++i) {
      layers_.push_back({matrix(576, kDim), matrix(192, kDim), matrix(192, kDim), matrix(576, kDim),
                         matrix(kHidden, kDim), matrix(kHidden, kDim), matrix(kDim, kHidden)});
    }
  }

  void Step(CpuLinear* linear, const float* x, int64_t num_rows, int64_t num_sampled,
            float* out) const {
    for (const Layer& layer : layers_) {
      Multiply(linear, x, num_rows, {layer.q.get(), layer.k.get(), layer.v.get()}, out);
      Multiply(linear, x, num_rows, {layer.o.get()}, out);
      Multiply(linear, x, num_rows, {layer.gate.get(), layer.up.get()}, out);
      Multiply(linear, x, num_rows, {layer.down.get()}, out);
    }
    Multiply(linear, x, num_sampled, {head_.get()}, out);
  }

  double WeightBytes() const {
    return 30 * 3538944.0 * 20 / 32 + static_cast<double>(head_->size_bytes());
  }
  static double Operations(int64_t num_rows, int64_t num_sampled) {
    return 2.0 * (static_cast<double>(num_rows) * 30 * 3538944 +
                  static_cast<double>(num_sampled) * kVocab * kDim);
  }

 private:
  static void Multiply(CpuLinear* linear, const float* x, int64_t num_rows,
                       const std::vector<const PackedWeight*>& weights, float* out) {
    linear->Run(x, num_rows, weights, out);
  }

  std::vector<Layer> layers_;
  std::unique_ptr<CpuWeight> head_;
};

// Decode: every row is sampled. Prefill (more than 32 rows): the last alone.
void BM_Model(benchmark::State& state, CpuIsa isa) {
  static const Model* model = new Model;
  const int64_t num_rows = state.range(1);
  const int64_t num_sampled = num_rows > 32 ? 1 : num_rows;
  WorkerPool pool(static_cast<int>(state.range(0)));
  CpuLinear linear(&pool, isa);
  const std::vector<float> x = RandomActivations(num_rows * Model::kHidden);
  std::vector<float> out(
      static_cast<size_t>(std::max(num_rows * 2 * Model::kHidden, num_sampled * Model::kVocab)));
  for (auto _ : state) model->Step(&linear, x.data(), num_rows, num_sampled, out.data());
  SetRates(state, model->WeightBytes(), Model::Operations(num_rows, num_sampled));
}

// Enough copies of one matrix that no cache holds them all.
void BM_Matrix(benchmark::State& state, DType type, CpuIsa isa) {
  constexpr int64_t kRows = 2048;
  constexpr int64_t kCols = 2048;
  constexpr size_t kTotalBytes = size_t{96} << 20;
  const int64_t num_rows = state.range(1);
  std::vector<std::unique_ptr<CpuWeight>> weights;
  for (size_t bytes = 0; bytes < kTotalBytes; bytes += weights.back()->size_bytes()) {
    weights.push_back(MakeWeight(type, kRows, kCols));
  }
  WorkerPool pool(static_cast<int>(state.range(0)));
  CpuLinear linear(&pool, isa);
  const std::vector<float> x = RandomActivations(num_rows * kCols);
  std::vector<float> out(static_cast<size_t>(num_rows * kRows));
  size_t next = 0;
  for (auto _ : state) {
    const PackedWeight* weight[] = {weights[next++ % weights.size()].get()};
    linear.Run(x.data(), num_rows, weight, out.data());
  }
  SetRates(state, static_cast<double>(weights[0]->size_bytes()),
           2.0 * static_cast<double>(num_rows * kRows * kCols));
}

// Twelve independent chains hide the latency; asm keeps the compiler from folding them into one.
[[gnu::target("avx2")]] int ChainsAvx2(int64_t steps) {
  __m256i sums[12];
#pragma GCC unroll 12
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  const __m256i x = _mm256_set1_epi32(3);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m256i& sum : sums) {
      __m256i product;
      __asm__ volatile("vpmaddwd %2, %2, %1\n\tvpaddd %1, %0, %0"
                       : "+x"(sum), "=&x"(product)
                       : "x"(x));
    }
  }
  __m256i total = sums[0];
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) total = _mm256_add_epi32(total, sums[i]);
  return static_cast<int>(total[0]);
}

[[gnu::target("avx512f,avx512bw")]] int ChainsAvx512(int64_t steps) {
  __m512i sums[12];
#pragma GCC unroll 12
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  const __m512i x = _mm512_set1_epi32(3);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) {
      __m512i product;
      __asm__ volatile("vpmaddwd %2, %2, %1\n\tvpaddd %1, %0, %0"
                       : "+v"(sum), "=&v"(product)
                       : "v"(x));
    }
  }
  __m512i total = sums[0];
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) total = _mm512_add_epi32(total, sums[i]);
  return static_cast<int>(total[0]);
}

[[gnu::target("avx512f,avx512vnni")]] int ChainsVnni(int64_t steps) {
  __m512i sums[12];
#pragma GCC unroll 12
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  const __m512i x = _mm512_set1_epi32(3);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) {
      __asm__ volatile("vpdpwssd %1, %1, %0" : "+v"(sum) : "v"(x));
    }
  }
  __m512i total = sums[0];
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) total = _mm512_add_epi32(total, sums[i]);
  return static_cast<int>(total[0]);
}

// Four tiles of sums hide the latency of products of full tiles.
[[gnu::target("amx-tile,amx-bf16")]] void ChainsAmx(int64_t steps) {
  struct alignas(64) Shapes {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
  };
  static constexpr Shapes kShapes;
  alignas(64) uint16_t values[512];  // from 1 to 2: zeros would draw less power
  for (int i = 0; i < 512; ++i) values[i] = static_cast<uint16_t>(0x3F80 + i % 128);
  _tile_loadconfig(&kShapes);
  __asm__ volatile("" ::"r"(values) : "memory");  // GCC does not know that tiles read them
  _tile_loadd(0, values, 64);
  _tile_loadd(1, values, 64);
  for (int64_t i = 0; i < steps; ++i) {
    _tile_dpbf16ps(2, 0, 1);
    _tile_dpbf16ps(3, 0, 1);
    _tile_dpbf16ps(4, 0, 1);
    _tile_dpbf16ps(5, 0, 1);
  }
  _tile_release();
}

void BM_Bf16TilePeak(benchmark::State& state) {
  constexpr int64_t kSteps = 10000;
  WorkerPool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) pool.Run([&](int) { ChainsAmx(kSteps); });
  SetRates(state, 0, 2.0 * 4 * kSteps * 16 * 16 * 32 * pool.num_threads());
}

void BM_Int16Peak(benchmark::State& state, CpuIsa isa) {
  constexpr int64_t kSteps = 100000;
  WorkerPool pool(static_cast<int>(state.range(0)));
  const auto chains = isa == CpuIsa::kAvx512Vnni ? ChainsVnni
                      : isa == CpuIsa::kAvx512   ? ChainsAvx512
                                                 : ChainsAvx2;
  for (auto _ : state) {
    pool.Run([&](int) { benchmark::DoNotOptimize(chains(kSteps)); });
  }
  const int products = isa == CpuIsa::kAvx2 ? 16 : 32;
  SetRates(state, 0, 2.0 * 12 * kSteps * products * pool.num_threads());
}

[[gnu::target("avx2")]] int SumOfLines(std::span<const uint8_t> bytes, size_t begin, size_t end) {
  __m256i sums[4] = {};
  for (size_t i = begin; i + 128 <= end; i += 128) {
    for (size_t j = 0; j < 4; ++j) {
      const auto* p = reinterpret_cast<const __m256i_u*>(bytes.data() + i + 32 * j);
      sums[j] = _mm256_xor_si256(sums[j], _mm256_loadu_si256(p));
    }
  }
  for (const __m256i& sum : sums) sums[0] = _mm256_xor_si256(sums[0], sum);
  return static_cast<int>(sums[0][0]);
}

// 96 MB are the model, 144 the model and 2,048 tokens' keys and values.
void BM_ReadPeak(benchmark::State& state, size_t num_mb) {
  WeightArena arena;
  const size_t num_bytes = num_mb << 20;
  const std::shared_ptr<uint8_t> memory = arena.Allocate(num_bytes);
  std::memset(memory.get(), 1, num_bytes);
  const std::span<const uint8_t> bytes(memory.get(), num_bytes);
  WorkerPool pool(static_cast<int>(state.range(0)));
  const auto workers = static_cast<size_t>(pool.num_threads());
  for (auto _ : state) {
    pool.Run([&](int worker) {
      const auto w = static_cast<size_t>(worker);
      benchmark::DoNotOptimize(
          SumOfLines(bytes, bytes.size() * w / workers, bytes.size() * (w + 1) / workers));
    });
  }
  SetRates(state, static_cast<double>(bytes.size()), 0);
}

template <typename... Args>
benchmark::internal::Benchmark* Register(const std::string& name, int threads, Args... args) {
  auto* bench = benchmark::RegisterBenchmark(name.c_str(), args...);
  if (threads > 1) bench->UseRealTime();
  return bench->Unit(benchmark::kMicrosecond);
}

void RegisterPath(const std::string& path, CpuIsa isa, int threads) {
  if (!IsSupported(isa)) return;
  const std::vector<std::string> arg_names = {"threads", "M"};
  if (isa == CpuIsa::kAmx) {
    Register("bf16_tile_peak/" + path, threads, BM_Bf16TilePeak)->Arg(threads)->ArgName("threads");
  } else {
    Register("int16_peak/" + path, threads, BM_Int16Peak, isa)->Arg(threads)->ArgName("threads");
  }
  auto* model = Register("smollm2_step/" + path, threads, BM_Model, isa)->ArgNames(arg_names);
  for (int num_rows : {1, 2, 4, 8, 16, 32, 128, 512}) model->Args({threads, num_rows});
  for (DType type : kAllDTypes) {
    const std::string name = "matrix_2048x2048/" + std::string(Name(type)) + "/" + path;
    auto* matrix = Register(name, threads, BM_Matrix, type, isa)->ArgNames(arg_names);
    for (int num_rows : {1, 8, 128}) matrix->Args({threads, num_rows});
  }
}

void RegisterAll() {
  std::vector<int> thread_counts = {1};
  if (NumUsableCpus() > 1) thread_counts.push_back(NumUsableCpus());
  for (const int threads : thread_counts) {
    Register("read_peak", threads, BM_ReadPeak, 96)->Arg(threads)->ArgName("threads");
    Register("read_peak_144mb", threads, BM_ReadPeak, 144)->Arg(threads)->ArgName("threads");
    RegisterPath("amx", CpuIsa::kAmx, threads);
    RegisterPath("vnni", CpuIsa::kAvx512Vnni, threads);
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
