// Causal attention of one whole prompt on the CPU, once: time and peak memory of our tiled kernel,
// or of naive attention that materialises its scores. One process a measurement, so that its peak
// is its own; bench/attention.py runs the sweep.
//
//   attention_length tessera|naive TOKENS THREADS

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/worker_pool.h"
#include "kernels/backend.h"

namespace tessera {
namespace {

// SmolLM2-135M's attention.
constexpr int kNumHeads = 9;
constexpr KvSpec kSpec{.num_kv_heads = 3, .head_dim = 64};
constexpr int kQkvDim = (kNumHeads + 2 * kSpec.num_kv_heads) * kSpec.head_dim;

std::vector<float> RandomQkv(int num_tokens) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> qkv(static_cast<size_t>(num_tokens) * kQkvDim);
  for (float& value : qkv) value = normal(random);
  return qkv;
}

double Seconds(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Of this program alone: getrusage's peak begins with that of the process that started it.
double PeakMib() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word && word != "VmHWM:") continue;
  double kib = 0;
  status >> kib;
  return kib / 1024;
}

double RunTiled(std::vector<float>* qkv, int num_tokens, int num_threads, std::vector<float>* out) {
  const auto backend = MakeCpuBackend({.num_threads = num_threads});
  const int num_pages = (num_tokens + kPageTokens - 1) / kPageTokens;
  const DeviceBuffer pages = backend->Allocate(backend->KvPageBytes(kSpec) * num_pages);
  std::vector<int32_t> page_ids(num_pages);
  std::iota(page_ids.begin(), page_ids.end(), 0);
  const int32_t query_starts[] = {0, num_tokens};
  const int32_t kv_lengths[] = {num_tokens};
  const int32_t page_starts[] = {0, num_pages};
  const SequenceBatch batch{query_starts, kv_lengths, page_starts, page_ids};
  const std::vector<float> cos(static_cast<size_t>(num_tokens) * kSpec.head_dim / 2, 1.0f);
  const std::vector<float> sin(cos.size(), 0.0f);
  std::vector<uint8_t> row_faults(num_tokens);

  const auto start = std::chrono::steady_clock::now();
  backend->RopeStoreKv({.qkv = qkv->data(),
                        .num_heads = kNumHeads,
                        .spec = kSpec,
                        .pages = pages.As<std::byte>(),
                        .batch = &batch,
                        .rope_cos = cos.data(),
                        .rope_sin = sin.data(),
                        .rope_dim = kSpec.head_dim,
                        .row_faults = row_faults.data()});
  backend->Attention({.q = qkv->data(),
                      .q_stride = kQkvDim,
                      .out = out->data(),
                      .num_heads = kNumHeads,
                      .spec = kSpec,
                      .pages = pages.As<std::byte>(),
                      .batch = &batch,
                      .scale = 0.125f});
  backend->Synchronize();
  return Seconds(start);
}

const float* Head(const std::vector<float>& qkv, int token, int head) {
  return qkv.data() + static_cast<size_t>(token) * kQkvDim + int64_t{head} * kSpec.head_dim;
}

// Row `token` of one head: scores, softmax, weighted sum of values. `scores` is the head's N x N
// matrix.
void NaiveRow(const std::vector<float>& qkv, int head, int token, float* scores, float* out) {
  const int kv_head = head / (kNumHeads / kSpec.num_kv_heads);
  const float* query = Head(qkv, token, head);
  float max = -INFINITY;
  for (int key = 0; key <= token; ++key) {
    const float* keys = Head(qkv, key, kNumHeads + kv_head);
    float dot = 0;
    for (int i = 0; i < kSpec.head_dim; ++i) dot += query[i] * keys[i];
    scores[key] = dot * 0.125f;
    max = std::max(max, scores[key]);
  }
  float sum = 0;
  for (int key = 0; key <= token; ++key) sum += scores[key] = std::exp(scores[key] - max);
  for (int key = 0; key <= token; ++key) {
    const float* values = Head(qkv, key, kNumHeads + kSpec.num_kv_heads + kv_head);
    for (int i = 0; i < kSpec.head_dim; ++i) out[i] += scores[key] / sum * values[i];
  }
}

double RunNaive(const std::vector<float>& qkv, int num_tokens, int num_threads,
                std::vector<float>* out) {
  WorkerPool pool(num_threads);
  const auto start = std::chrono::steady_clock::now();
  const auto size = static_cast<size_t>(num_tokens);
  std::vector<float> scores(kNumHeads * size * size);
  pool.Run([&](int worker) {
    for (int head = 0; head < kNumHeads; ++head) {
      for (int token = worker; token < num_tokens; token += pool.num_threads()) {
        NaiveRow(qkv, head, token, scores.data() + (head * size + token) * size,
                 out->data() + (int64_t{token} * kNumHeads + head) * kSpec.head_dim);
      }
    }
  });
  return Seconds(start);
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  using namespace tessera;
  if (argc != 4) {
    std::fprintf(stderr, "usage: attention_length tessera|naive TOKENS THREADS\n");
    return 1;
  }
  const bool is_naive = std::string_view(argv[1]) == "naive";
  const int num_tokens = std::atoi(argv[2]);
  const int num_threads = std::atoi(argv[3]);
  const double before_mib = PeakMib();
  std::vector<float> qkv = RandomQkv(num_tokens);
  std::vector<float> out(static_cast<size_t>(num_tokens) * kNumHeads * kSpec.head_dim);
  const double seconds = is_naive ? RunNaive(qkv, num_tokens, num_threads, &out)
                                  : RunTiled(&qkv, num_tokens, num_threads, &out);
  const double sum = std::accumulate(out.begin(), out.end(), 0.0);
  std::printf(
      "{\"bench\": \"length\", \"who\": \"%s\", \"length\": %d, \"heads\": %d, "
      "\"threads\": %d, \"ms\": %.3f, \"mib\": %.1f, \"sum\": %.6f}\n",
      argv[1], num_tokens, kNumHeads, num_threads, seconds * 1e3, PeakMib() - before_mib, sum);
  return 0;
}
