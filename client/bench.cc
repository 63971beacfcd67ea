#include "client/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <map>
#include <numeric>

#include "client/connection.h"
#include "tessera/v1/generation.grpc.pb.h"

namespace tessera {
namespace {

// Vocabularies begin with special tokens; random prompts keep clear of them.
constexpr int32_t kFirstPlainId = 256;

double Mean(const std::vector<double>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

Json PercentilesToJson(const std::vector<double>& values) {
  return {{"mean", Mean(values)},
          {"p50", Percentile(values, 50)},
          {"p90", Percentile(values, 90)},
          {"p99", Percentile(values, 99)},
          {"max", Percentile(values, 100)}};
}

bool MeetsGoals(const LoadResult& result, const std::map<std::string, double>& goals) {
  return std::all_of(goals.begin(), goals.end(), [&](const auto& goal) {
    const auto& [metric, limit_ms] = goal;
    if (metric == "ttft") return result.ttft_ms <= limit_ms;
    if (metric == "itl") return Mean(result.itl_ms) <= limit_ms;
    return result.e2e_ms <= limit_ms;
  });
}

bool GetVocabSize(const Options& options, int32_t* vocab_size) {
  const auto stub = v1::ModelService::NewStub(Connect(options.connection));
  grpc::ClientContext context;
  PrepareContext(options.connection, &context);
  v1::GetModelInfoResponse info;
  const grpc::Status status = stub->GetModelInfo(&context, v1::GetModelInfoRequest(), &info);
  if (!status.ok()) ReportFailure(status);
  *vocab_size = static_cast<int32_t>(info.vocab_size());
  return status.ok();
}

void PrintSummary(const Json& summary) {
  std::cout << std::fixed << std::setprecision(1);
  for (const char* key :
       {"num_ok", "num_failed", "duration_seconds", "requests_per_second",
        "output_tokens_per_second", "total_tokens_per_second", "goodput_requests_per_second"}) {
    if (summary.contains(key)) {
      std::cout << std::setw(30) << std::left << key << summary[key].get<double>() << '\n';
    }
  }
  for (const char* key : {"ttft_ms", "itl_ms", "e2e_ms"}) {
    const Json& values = summary[key];
    std::cout << std::setw(30) << std::left << key << "mean " << values["mean"].get<double>()
              << "  p50 " << values["p50"].get<double>() << "  p90 " << values["p90"].get<double>()
              << "  p99 " << values["p99"].get<double>() << '\n';
  }
  for (const auto& [status, count] : summary["statuses"].items()) {
    std::cout << std::setw(30) << std::left << status << count << '\n';
  }
}

}  // namespace

double Percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  const auto rank = static_cast<size_t>(
      std::max(1.0, std::ceil(percent / 100 * static_cast<double>(values.size()))));
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(rank - 1), values.end());
  return values[rank - 1];
}

Json SummarizeLoad(const BenchOptions& options, const std::vector<LoadRequest>& load,
                   const std::vector<LoadResult>& results, double seconds) {
  std::vector<double> ttft_ms, itl_ms, e2e_ms;
  std::map<std::string, int> statuses;
  int64_t input_tokens = 0, output_tokens = 0, cached_tokens = 0;
  int num_good = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    const LoadResult& result = results[i];
    ++statuses[result.status];
    output_tokens += result.output_tokens;
    if (result.status != "OK") continue;
    input_tokens += static_cast<int64_t>(load[i].prompt_ids.size());
    cached_tokens += result.cached_tokens;
    ttft_ms.push_back(result.ttft_ms);
    e2e_ms.push_back(result.e2e_ms);
    itl_ms.insert(itl_ms.end(), result.itl_ms.begin(), result.itl_ms.end());
    if (MeetsGoals(result, options.goodput_ms)) ++num_good;
  }
  const int num_ok = statuses["OK"];
  Json summary = {
      {"num_requests", results.size()},
      {"num_ok", num_ok},
      {"num_failed", static_cast<int>(results.size()) - num_ok},
      {"concurrency", options.concurrency},
      {"request_rate", options.request_rate},
      {"duration_seconds", seconds},
      {"input_tokens", input_tokens},
      {"cached_tokens", cached_tokens},
      {"output_tokens", output_tokens},
      {"requests_per_second", num_ok / seconds},
      {"output_tokens_per_second", static_cast<double>(output_tokens) / seconds},
      {"total_tokens_per_second", static_cast<double>(input_tokens + output_tokens) / seconds},
      {"ttft_ms", PercentilesToJson(ttft_ms)},
      {"itl_ms", PercentilesToJson(itl_ms)},
      {"e2e_ms", PercentilesToJson(e2e_ms)},
      {"statuses", statuses}};
  if (!options.goodput_ms.empty()) summary["goodput_requests_per_second"] = num_good / seconds;
  return summary;
}

int RunBench(const Options& options) {
  int32_t vocab_size = 0;
  if (!GetVocabSize(options, &vocab_size)) return 1;
  const int32_t first_id = std::min(kFirstPlainId, vocab_size - 1);
  const std::vector<LoadRequest> load = MakeLoad(options.bench, first_id, vocab_size);

  const auto start = std::chrono::steady_clock::now();
  const std::vector<LoadResult> results = SendLoad(options, load);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;

  const Json summary = SummarizeLoad(options.bench, load, results, elapsed.count());
  if (options.json) {
    std::cout << summary.dump() << '\n';
  } else {
    PrintSummary(summary);
  }
  return summary["num_failed"] == 0 ? 0 : 1;
}

}  // namespace tessera
