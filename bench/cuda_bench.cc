#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "bench/cuda_timer.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/kv_page.h"
#include "kernels/cuda/make_backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/step_attention.h"
#include "kernels/cuda/step_buffer.h"
#include "tests/support/ragged_step.h"
#include "tests/support/random_decoder.h"

// Times of CUDA kernels, one JSON object a line (the first names the device): medians over runs
// that each begin with a cold L2, on random data. scripts/gpu-check runs it, and
// bench/cuda_torch.py PyTorch at the same shapes.
//
//   cuda_bench device|attention|decode|mixed|length|gemm|step [--small]

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

// Bytes read and written per second by a copy on the device.
double CopyBytesPerSecond(Timer* timer, const BenchOptions& options) {
  const size_t size_bytes = options.small ? size_t{1} << 16 : size_t{2} << 30;
  const DeviceMemory from = RandomMemory(size_bytes);
  const DeviceMemory to(size_bytes);
  const double ms = timer->MedianMs(
      [&] { CopyOnDeviceAsync(to.data(), from.data(), size_bytes, timer->stream()); });
  return 2.0 * static_cast<double>(size_bytes) / ms * 1e3;
}

struct Group {
  int num_sequences;
  int num_new;  // rows each
  int length;   // keys each
};

struct AttentionShape {
  int num_heads;
  KvSpec spec;
  std::vector<Group> groups;
  bool causal = true;
};

int NumPages(int length) { return (length + kPageTokens - 1) / kPageTokens; }

// One attention over random queries and pages that lie scattered in memory.
class AttentionBench {
 public:
  AttentionBench(const AttentionShape& shape, const DeviceProperties& device, const Stream* stream)
      : shape_(shape), stream_(*stream), step_(stream), attention_(DType::kBf16, device) {
    for (const Group& group : shape.groups) {
      for (int i = 0; i < group.num_sequences; ++i) AddSequence(group);
    }
    std::shuffle(page_ids_.begin(), page_ids_.end(), std::mt19937(2));
    batch_ = {query_starts_, kv_lengths_, page_starts_, page_ids_};
    tokens_.resize(static_cast<size_t>(batch_.num_rows()));
    q_ = RandomMemory(QueryBytes());
    out_ = DeviceMemory(QueryBytes());
    pages_ = RandomMemory(page_ids_.size() * KvPageBytes(shape.spec));
    step_.Begin({.tokens = tokens_, .batch = &batch_, .selected = {}});
  }

  void Run() {
    attention_.Run({.q = q_.data(),
                    .q_stride = int64_t{shape_.num_heads} * shape_.spec.head_dim,
                    .out = out_.data(),
                    .num_heads = shape_.num_heads,
                    .spec = shape_.spec,
                    .pages = reinterpret_cast<const std::byte*>(pages_.data()),
                    .batch = &batch_,
                    .scale = 1.0f / std::sqrt(static_cast<float>(shape_.spec.head_dim)),
                    .causal = shape_.causal},
                   &step_, stream_);
  }

  // Multiplications and additions with visible keys; by convention a causal square counts half.
  double Flops() const {
    double pairs = 0;
    for (const Group& group : shape_.groups) {
      const double square = double{1.0} * group.num_new * group.length;
      const bool is_half = shape_.causal && group.num_new == group.length;
      pairs += group.num_sequences * (is_half ? square / 2 : square);
    }
    return 4.0 * pairs * shape_.num_heads * shape_.spec.head_dim;
  }

  double KvBytes() const {
    double tokens = 0;
    for (const Group& group : shape_.groups)
      tokens += double{1.0} * group.num_sequences * group.length;
    return tokens * shape_.spec.num_kv_heads * shape_.spec.head_dim * 2 * sizeof(uint16_t);
  }

 private:
  void AddSequence(const Group& group) {
    query_starts_.push_back(query_starts_.back() + group.num_new);
    kv_lengths_.push_back(group.length);
    for (int i = 0; i < NumPages(group.length); ++i) {
      page_ids_.push_back(static_cast<int32_t>(page_ids_.size()));
    }
    page_starts_.push_back(static_cast<int32_t>(page_ids_.size()));
  }

  size_t QueryBytes() const {
    return static_cast<size_t>(batch_.num_rows()) * static_cast<size_t>(shape_.num_heads) *
           static_cast<size_t>(shape_.spec.head_dim) * sizeof(uint16_t);
  }

  const AttentionShape shape_;
  const Stream& stream_;
  std::vector<int32_t> query_starts_ = {0};
  std::vector<int32_t> kv_lengths_;
  std::vector<int32_t> page_starts_ = {0};
  std::vector<int32_t> page_ids_;
  std::vector<TokenId> tokens_;
  SequenceBatch batch_;
  DeviceMemory q_, out_, pages_;
  StepBuffer step_;
  StepAttention attention_;
};

double AttentionMs(const AttentionShape& shape, const DeviceProperties& device, Timer* timer) {
  AttentionBench bench(shape, device, &timer->stream());
  return timer->MedianMs([&] { bench.Run(); });
}

// Whole prompts, 16k tokens in all, hidden size 2,048.
void BenchAttention(const DeviceProperties& device, const BenchOptions& options) {
  Timer timer(device, options);
  const int total = options.small ? 256 : 16384;
  const int hidden = options.small ? 256 : 2048;
  const std::vector<int> lengths =
      options.small ? std::vector<int>{128} : std::vector<int>{1024, 4096, 16384};
  for (const int head_dim : {64, 128, 256}) {
    if (!AttentionSupports(DType::kBf16, head_dim)) continue;
    for (const int length : lengths) {
      for (const bool causal : {true, false}) {
        const int heads = hidden / head_dim;
        const AttentionShape shape = {
            heads, {heads, head_dim}, {{total / length, length, length}}, causal};
        AttentionBench bench(shape, device, &timer.stream());
        const double ms = timer.MedianMs([&] { bench.Run(); });
        std::printf(
            "{\"bench\": \"attention\", \"who\": \"tessera\", \"head_dim\": %d, \"length\": %d, "
            "\"sequences\": %d, \"heads\": %d, \"causal\": %s, \"ms\": %.4f, \"tflops\": %.2f}\n",
            head_dim, length, total / length, heads, causal ? "true" : "false", ms,
            bench.Flops() / ms * 1e-9);
      }
    }
  }
}

void BenchDecode(const DeviceProperties& device, const BenchOptions& options) {
  Timer timer(device, options);
  const double copy = CopyBytesPerSecond(&timer, options);
  std::vector<Group> groups = {{64, 1, 2048}, {1, 1, 8192}, {256, 1, 1024}, {8, 1, 32768}};
  if (options.small) groups = {{3, 1, 200}};
  const KvSpec spec = options.small ? KvSpec{1, 128} : KvSpec{8, 128};
  for (const Group& group : groups) {
    AttentionBench bench({4 * spec.num_kv_heads, spec, {group}}, device, &timer.stream());
    const double ms = timer.MedianMs([&] { bench.Run(); });
    const double rate = bench.KvBytes() / ms * 1e3;
    std::printf(
        "{\"bench\": \"decode\", \"who\": \"tessera\", \"sequences\": %d, \"length\": %d, "
        "\"group\": 4, \"head_dim\": 128, \"ms\": %.4f, \"gb_per_s\": %.1f, \"copy_gb_per_s\": "
        "%.1f, \"share_of_copy\": %.4f}\n",
        group.num_sequences, group.length, ms, rate * 1e-9, copy * 1e-9, rate / copy);
  }
}

// A chunk of a prompt and decode rows: in one launch against one after the other.
void BenchMixed(const DeviceProperties& device, const BenchOptions& options) {
  Timer timer(device, options);
  const KvSpec spec = options.small ? KvSpec{1, 128} : KvSpec{8, 128};
  const Group prompt = options.small ? Group{1, 100, 100} : Group{1, 4096, 4096};
  const Group decode = options.small ? Group{2, 1, 150} : Group{64, 1, 2048};
  const int heads = 4 * spec.num_kv_heads;
  const double together = AttentionMs({heads, spec, {prompt, decode}}, device, &timer);
  const double prompt_ms = AttentionMs({heads, spec, {prompt}}, device, &timer);
  const double decode_ms = AttentionMs({heads, spec, {decode}}, device, &timer);
  std::printf(
      "{\"bench\": \"mixed\", \"who\": \"tessera\", \"together_ms\": %.4f, \"prompt_ms\": %.4f, "
      "\"decode_ms\": %.4f, \"speedup\": %.4f}\n",
      together, prompt_ms, decode_ms, (prompt_ms + decode_ms) / together);
}

// GPT-2's attention of one prompt: time, and all the device memory it needs.
void BenchLength(const DeviceProperties& device, const BenchOptions& options) {
  Timer timer(device, options);
  std::vector<int> lengths = {1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072};
  if (options.small) lengths = {128};
  const int heads = options.small ? 1 : 12;
  for (const int length : lengths) {
    const size_t free_before = FreeDeviceBytes();
    AttentionBench bench({heads, {heads, 64}, {{1, length, length}}}, device, &timer.stream());
    const double ms = timer.MedianMs([&] { bench.Run(); });
    std::printf(
        "{\"bench\": \"length\", \"who\": \"tessera\", \"length\": %d, \"heads\": %d, "
        "\"ms\": %.4f, \"mib\": %.1f}\n",
        length, heads, ms, static_cast<double>(free_before - FreeDeviceBytes()) / (1 << 20));
  }
}

// Llama 8B's matrices in bf16: q, k and v; o; gate and up; down. PyTorch's cuBLAS, which may choose
// another order of additions for each number of rows, shows what one order for all costs.
void BenchGemm(const DeviceProperties& device, const BenchOptions& options) {
  struct Matrix {
    int cols, outputs;
  };
  Timer timer(device, options);
  std::vector<Matrix> matrices = {{4096, 6144}, {4096, 4096}, {4096, 28672}, {14336, 4096}};
  if (options.small) matrices = {{64, 72}};
  for (const auto& [cols, outputs] : matrices) {
    const DeviceMemory weight = RandomMemory(size_t{2} * cols * outputs);
    for (const int rows :
         options.small ? std::vector<int>{3} : std::vector<int>{1, 16, 64, 512, 4096}) {
      const DeviceMemory x = RandomMemory(size_t{2} * rows * cols);
      const DeviceMemory out(size_t{2} * rows * outputs);
      GemmParams params;
      params.x = x.data();
      params.num_rows = rows;
      params.num_weights = 1;
      params.weights[0] = {DType::kBf16, outputs, cols, weight.data()};
      params.out = out.data();
      params.out_stride = outputs;
      const double ms = timer.MedianMs([&] { Gemm<Bf16>(params, timer.stream()); });
      std::printf(
          "{\"bench\": \"gemm\", \"who\": \"tessera\", \"rows\": %d, \"cols\": %d, "
          "\"outputs\": %d, \"ms\": %.4f}\n",
          rows, cols, outputs, ms);
    }
  }
}

DecoderShape StepShape(bool small, int batch, int context) {
  DecoderShape shape = {.num_layers = 32,
                        .hidden_dim = 4096,
                        .num_heads = 32,
                        .kv = {.num_kv_heads = 8, .head_dim = 128},
                        .ffn_dim = 14336,
                        .vocab_size = 128256,
                        .type = DType::kBf16};
  if (small) {
    shape = {.num_layers = 1,
             .hidden_dim = 128,
             .num_heads = 2,
             .kv = {.num_kv_heads = 1, .head_dim = 128},
             .ffn_dim = 128,
             .vocab_size = 320,
             .type = DType::kBf16};
  }
  shape.max_rows = std::min(4096, batch * context);
  shape.max_selected = batch;
  shape.max_context = context;
  shape.num_pages = batch * NumPages(context);
  return shape;
}

// Fills the sequences' pages, some at a time.
void Prefill(Backend* backend, RandomDecoder* decoder, int batch, int length, int pages_each) {
  const int at_once = std::max(1, decoder->shape().max_rows / length);
  for (int first = 0; first < batch; first += at_once) {
    RaggedStep step(batch, pages_each, decoder->shape().vocab_size);
    for (int i = first; i < std::min(batch, first + at_once); ++i) step.Add(i, 0, length, length);
    decoder->Run(step.Rows());
    backend->Synchronize();
  }
}

double MedianStepMs(Backend* backend, RandomDecoder* decoder, RaggedStep* step, int num_runs) {
  std::vector<double> times;
  for (int i = 0; i <= num_runs; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    decoder->Run(step->Rows());
    backend->Synchronize();
    const std::chrono::duration<double, std::milli> elapsed =
        std::chrono::steady_clock::now() - begin;
    if (i > 0) times.push_back(elapsed.count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// A whole decode step as the host sees it, launches included, against what it must read.
void BenchStep(const DeviceProperties& device, const BenchOptions& options) {
  Timer timer(device, options);
  const double copy = CopyBytesPerSecond(&timer, options);
  const int context = options.small ? 70 : 1024;
  CudaBackendOrError opened = MakeBackend({});
  CHECK(opened.backend != nullptr) << opened.error;
  Backend* backend = opened.backend.get();
  for (const int batch : options.small ? std::vector<int>{1, 2} : std::vector<int>{1, 64}) {
    const int pages_each = NumPages(context);
    RandomDecoder decoder(backend, StepShape(options.small, batch, context), 1);
    Prefill(backend, &decoder, batch, context - 1, pages_each);
    RaggedStep step(batch, pages_each, decoder.shape().vocab_size);
    for (int i = 0; i < batch; ++i) step.Add(i, context - 1, context, context - 1);
    const double ms = MedianStepMs(backend, &decoder, &step, options.num_runs);
    const KvSpec& kv = decoder.shape().kv;
    const double kv_bytes =
        4.0 * kv.num_kv_heads * kv.head_dim * context * batch * decoder.shape().num_layers;
    const double floor_ms = (static_cast<double>(decoder.weight_bytes()) + kv_bytes) / copy * 1e3;
    std::printf(
        "{\"bench\": \"step\", \"who\": \"tessera\", \"model\": \"%s\", \"batch\": %d, "
        "\"context\": %d, \"ms\": %.4f, \"floor_ms\": %.4f, \"share_of_floor\": %.4f}\n",
        options.small ? "small" : "llama-8b bf16", batch, context, ms, floor_ms, floor_ms / ms);
  }
}

int Main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  BenchOptions options;
  options.small = argc > 2 && std::string(argv[2]) == "--small";
  if (options.small) options.num_runs = 1;
  const std::pair<std::string, void (*)(const DeviceProperties&, const BenchOptions&)> benches[] = {
      {"device", [](const DeviceProperties&, const BenchOptions&) {}},
      {"attention", BenchAttention},
      {"decode", BenchDecode},
      {"mixed", BenchMixed},
      {"length", BenchLength},
      {"gemm", BenchGemm},
      {"step", BenchStep}};
  for (const auto& [name, run] : benches) {
    if (name != what) continue;
    DeviceProperties device;
    const std::string error = OpenDevice(0, &device);
    if (error.empty()) {
      std::printf("{\"bench\": \"device\", \"who\": \"tessera\", \"name\": \"%s\"}\n",
                  device.name.c_str());
      run(device, options);
      return 0;
    }
    std::fprintf(stderr, "cuda_bench: %s\n", error.c_str());
    return 1;
  }
  std::fprintf(stderr,
               "usage: cuda_bench device|attention|decode|mixed|length|gemm|step [--small]\n");
  return 2;
}

}  // namespace
}  // namespace tessera::TESSERA_CUDA_NAMESPACE

int main(int argc, char** argv) { return tessera::TESSERA_CUDA_NAMESPACE::Main(argc, argv); }
