// Where a step's time goes: every call of the model on its backend, timed, beside the bytes that it
// must read. Its decode steps are a server's at `--rows` sequences, each at `--depth` tokens.
//
//   step_profile MODEL [ROWS=1] [DEPTH=128] [THREADS=2]
//
// Prints a Markdown table of means; run bench/linear_bench's read_peak beside it.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "base/check.h"
#include "model/model_runner.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kNumSteps = 60;
const SamplingParams kGreedy = {.temperature = 0.0f, .logit_bias = {}};

struct Stage {
  int64_t num_calls = 0;
  double seconds = 0;
  double bytes = 0;  // weights, or keys and values
};

// Forwards every call, and keeps its time by stage.
class TimedBackend final : public Backend {
 public:
  explicit TimedBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}

  std::map<std::string, Stage>* stages() { return &stages_; }

  std::string_view name() const override { return inner_->name(); }
  DeviceBuffer Allocate(size_t size_bytes) override { return inner_->Allocate(size_bytes); }
  void Synchronize() override { inner_->Synchronize(); }
  size_t activation_bytes() const override { return inner_->activation_bytes(); }
  void Upload(const void* host, size_t size_bytes, void* device) override {
    inner_->Upload(host, size_bytes, device);
  }
  void Download(const void* device, size_t size_bytes, void* host) override {
    inner_->Download(device, size_bytes, host);
  }
  void Zero(void* device, size_t size_bytes) override { inner_->Zero(device, size_bytes); }
  std::unique_ptr<PackedWeight> NewWeight(DType type, int64_t rows, int64_t cols) override {
    return inner_->NewWeight(type, rows, cols);
  }
  void PackRows(PackedWeight* weight, int64_t first_row, int64_t num_rows,
                const std::byte* data) override {
    inner_->PackRows(weight, first_row, num_rows, data);
  }
  size_t KvPageBytes(const KvSpec& spec) const override { return inner_->KvPageBytes(spec); }
  void BeginStep(const StepRows& step) override { inner_->BeginStep(step); }
  void CopyPage(const KvSpec& spec, std::byte* pages, int32_t from, int32_t to,
                int num_tokens) override {
    inner_->CopyPage(spec, pages, from, to, num_tokens);
  }

  void Embed(const PackedWeight& table, std::span<const TokenId> tokens, float* out) override {
    Time("embedding, gather", 0, [&] { inner_->Embed(table, tokens, out); });
  }
  void RmsNorm(const float* x, const float* weight, float epsilon, int64_t num_rows, int64_t dim,
               void* out) override {
    Time("norms", 0, [&] { inner_->RmsNorm(x, weight, epsilon, num_rows, dim, out); });
  }
  void AddRmsNorm(const void* x, const float* weight, float epsilon, int64_t num_rows, int64_t dim,
                  float* residual, void* out) override {
    Time("norms", 0, [&] { inner_->AddRmsNorm(x, weight, epsilon, num_rows, dim, residual, out); });
  }
  void Linear(const void* x, int64_t num_rows, std::span<const PackedWeight* const> weights,
              void* out) override {
    double bytes = 0;
    for (const PackedWeight* weight : weights) bytes += static_cast<double>(weight->size_bytes());
    Time("layers' matrices", bytes, [&] { inner_->Linear(x, num_rows, weights, out); });
  }
  void Logits(const void* x, int64_t num_rows, const PackedWeight& weight, float* out) override {
    Time("language-model head", static_cast<double>(weight.size_bytes()),
         [&] { inner_->Logits(x, num_rows, weight, out); });
  }
  void RopeStoreKv(const RopeStoreKvParams& params) override {
    Time("RoPE, KV store", 0, [&] { inner_->RopeStoreKv(params); });
  }
  void Attention(const AttentionParams& params) override {
    double num_keys = 0;
    for (const int32_t length : params.batch->kv_lengths) num_keys += length;
    const double key_bytes =
        2.0 * params.spec.num_kv_heads * params.spec.head_dim * sizeof(uint16_t);
    Time("attention", num_keys * key_bytes, [&] { inner_->Attention(params); });
  }
  void SwiGlu(const void* gate_up, int64_t num_rows, int64_t dim, void* out) override {
    Time("SwiGLU", 0, [&] { inner_->SwiGlu(gate_up, num_rows, dim, out); });
  }
  void GatherRows(const void* x, std::span<const int32_t> rows, size_t row_bytes,
                  void* out) override {
    Time("embedding, gather", 0, [&] { inner_->GatherRows(x, rows, row_bytes, out); });
  }
  void Sample(float* logits, int64_t vocab_size, std::span<const SampleRow> rows,
              std::span<SampleResult> results) override {
    Time("sampling", 0, [&] { inner_->Sample(logits, vocab_size, rows, results); });
  }

 private:
  template <typename Call>
  void Time(const char* stage_name, double bytes, Call call) {
    const Clock::time_point start = Clock::now();
    call();
    Stage& stage = stages_[stage_name];
    stage.seconds += std::chrono::duration<double>(Clock::now() - start).count();
    stage.bytes += bytes;
    ++stage.num_calls;
  }
  void Free(void*, size_t) override { CHECK(false) << "the inner backend owns all memory"; }

  const std::unique_ptr<Backend> inner_;
  std::map<std::string, Stage> stages_;
};

// Sequences of the same length, each with pages of its own.
class Batch {
 public:
  Batch(int num_sequences, int pages_each) : num_sequences_(num_sequences) {
    for (int i = 0; i < num_sequences * pages_each; ++i) pages_.push_back(i);
    pages_each_ = pages_each;
  }

  // Gives each sequence `count` tokens more; the last rows choose greedily.
  double Step(ModelRunner* runner, int count) {
    Clear();
    length_ += count;
    for (int i = 0; i < num_sequences_; ++i) AddSequence(i, count);
    const StepInput input = {.tokens = tokens_,
                             .query_starts = query_starts_,
                             .kv_lengths = kv_lengths_,
                             .page_starts = page_starts_,
                             .page_ids = pages_,
                             .slot_starts = slot_starts_,
                             .page_copies = {},
                             .samples = samples_};
    const Clock::time_point start = Clock::now();
    runner->Wait(runner->Launch(input));
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

 private:
  void Clear() {
    tokens_.clear();
    query_starts_.assign(1, 0);
    kv_lengths_.clear();
    page_starts_.assign(1, 0);
    slot_starts_.clear();
    samples_.clear();
  }

  void AddSequence(int index, int count) {
    for (int j = 0; j < count; ++j) tokens_.push_back(100 + (index * 131 + length_ * 7 + j) % 4096);
    if (length_ == count) {
      slot_starts_.push_back(
          {.slot = index, .params = &kGreedy, .tokens = {}, .prompt_length = count});
    }
    query_starts_.push_back(static_cast<int32_t>(tokens_.size()));
    kv_lengths_.push_back(length_);
    page_starts_.push_back((index + 1) * pages_each_);
    SampleRequest sample;
    sample.row = query_starts_.back() - 1;
    sample.slot = index;
    sample.position = length_;
    samples_.push_back(sample);
  }

  const int num_sequences_;
  int pages_each_ = 0;
  int length_ = 0;
  std::vector<TokenId> tokens_;
  std::vector<int32_t> query_starts_, kv_lengths_, page_starts_;
  std::vector<PageId> pages_;
  std::vector<SlotStart> slot_starts_;
  std::vector<SampleRequest> samples_;
};

void Print(const std::map<std::string, Stage>& stages, double step_seconds) {
  std::printf("| stage | calls | us a step | share | GB/s |\n|---|---|---|---|---|\n");
  double rest = step_seconds;
  for (const auto& [name, stage] : stages) {
    const double seconds = stage.seconds / kNumSteps;
    rest -= seconds;
    std::printf("| %s | %ld | %.0f | %.1f %% |", name.c_str(),
                static_cast<long>(stage.num_calls / kNumSteps), 1e6 * seconds,
                100 * seconds / step_seconds);
    if (stage.bytes > 0) std::printf(" %.1f", stage.bytes / stage.seconds / 1e9);
    std::printf(" |\n");
  }
  std::printf("| all else in the step | | %.0f | %.1f %% | |\n", 1e6 * rest,
              100 * rest / step_seconds);
  std::printf("| step | | %.0f | | |\n", 1e6 * step_seconds);
}

int Profile(const std::string& path, int num_rows, int depth, int num_threads) {
  const auto file = GgufFile::Open(path);
  if (!file.ok()) {
    std::fprintf(stderr, "%s\n", std::string(file.status().message()).c_str());
    return 1;
  }
  auto owned = std::make_unique<TimedBackend>(MakeCpuBackend({.num_threads = num_threads}));
  TimedBackend* const backend = owned.get();
  const int pages_each = (depth + kNumSteps + 1 + kPageTokens) / kPageTokens;
  auto runner = ModelRunner::Load(**file, std::move(owned),
                                  {.max_batch_tokens = std::max(512, num_rows * 64),
                                   .max_running = num_rows,
                                   .num_pages = num_rows * pages_each});
  CHECK(runner.ok()) << runner.status();
  Batch batch(num_rows, pages_each);
  for (int done = 0; done < depth; done += 64)
    batch.Step(runner->get(), std::min(64, depth - done));
  batch.Step(runner->get(), 1);
  backend->stages()->clear();
  double seconds = 0;
  for (int i = 0; i < kNumSteps; ++i) seconds += batch.Step(runner->get(), 1);
  std::printf("%s, %d threads, %d sequences at depth %d, mean of %d steps\n\n",
              std::string(backend->name()).c_str(), num_threads, num_rows, depth, kNumSteps);
  Print(*backend->stages(), seconds / kNumSteps);
  return 0;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  if (argc < 2 || argc > 5) {
    std::fprintf(stderr, "usage: step_profile MODEL [ROWS=1] [DEPTH=128] [THREADS=2]\n");
    return 1;
  }
  const auto number = [&](int index, int otherwise) {
    return argc > index ? std::max(1, std::atoi(argv[index])) : otherwise;
  };
  return tessera::Profile(argv[1], number(2, 1), number(3, 128), number(4, 2));
}
