#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <sstream>

#include "tests/server/test_server.h"

namespace tessera {
namespace {

using testing::HasSubstr;

constexpr TimeNs kMillisecond = 1'000'000;

MetricsOptions TestOptions() {
  return {.model_name = "m\"odel",
          .fingerprint = "f",
          .device = "cpu",
          .page_tokens = 64,
          .num_pages = 100,
          .max_context = 2048};
}

StepReport MakeStep() {
  StepReport report;
  report.num_rows = 25;
  report.num_sequences = 6;
  report.num_prefill_rows = 16;
  report.num_draft_rows = 5;  // 4 decode rows, so 2 sequences in their prompts
  report.plan_ns = 20'000;
  report.execute_ns = 5 * kMillisecond;
  report.commit_ns = 10'000;
  report.stats.num_running_sequences = 6;
  report.stats.num_waiting_requests = 3;
  report.stats.num_preempted_sequences = 1;
  report.stats.num_pages = 100;
  report.stats.num_pages_used = 25;
  report.stats.num_pages_cached = 10;
  report.stats.num_preemptions = 2;
  report.stats.prefix_queried_tokens = 64;
  report.stats.prefix_hit_tokens = 32;
  report.stats.prompt_tokens = 16;
  report.stats.generated_tokens = 4;
  report.stats.draft_tokens = 9;
  report.stats.accepted_draft_tokens = 3;
  return report;
}

std::string Labelled(const std::string& name, const std::string& more = "") {
  return "\n" + name + "{engine=\"0\"" + more + ",model_name=\"m\\\"odel\"} ";
}

TEST(MetricsTest, StepsSetGaugesAndAddDifferences) {
  Metrics metrics(TestOptions());
  metrics.OnStep(MakeStep());
  metrics.OnStep(MakeStep());  // the counts since start have not changed
  const std::string page = metrics.Render();
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:num_requests_running") + "6"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:num_requests_waiting") + "4"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:kv_cache_usage_perc") + "0.25"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:num_preemptions_total") + "2\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:prefix_cache_queries_total") + "64\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:prefix_cache_hits_total") + "32\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:prompt_tokens_total") + "16\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:generation_tokens_total") + "4\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:spec_decode_num_draft_tokens_total") + "9\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:spec_decode_num_accepted_tokens_total") + "3\n"));
  EXPECT_THAT(page,
              HasSubstr("vllm:iteration_tokens_total_bucket{engine=\"0\",model_name=\"m\\\"odel\""
                        ",le=\"16\"} 0\n"));
  EXPECT_THAT(page,
              HasSubstr("vllm:iteration_tokens_total_bucket{engine=\"0\",model_name=\"m\\\"odel\""
                        ",le=\"32\"} 2\n"));
  EXPECT_THAT(page, HasSubstr("\ntessera_step_sequences_max 6\n"));
  EXPECT_THAT(page, HasSubstr("\ntessera_prefill_chunks_total 4\n"));
  EXPECT_THAT(page, HasSubstr("\ntessera_step_rows_total{kind=\"prompt\"} 32\n"));
  EXPECT_THAT(page, HasSubstr("\ntessera_step_rows_total{kind=\"decode\"} 8\n"));
  EXPECT_THAT(page, HasSubstr("\ntessera_step_rows_total{kind=\"draft\"} 10\n"));
  EXPECT_THAT(page, HasSubstr("\ntessera_kv_pages{state=\"free\"} 65\n"));
  EXPECT_THAT(page, HasSubstr("tessera_step_seconds_count{phase=\"execute\"} 2\n"));
}

TEST(MetricsTest, FinishedSequencesFillTheHistograms) {
  Metrics metrics(TestOptions());
  SequenceReport report;
  report.prompt_tokens = 100;
  report.cached_tokens = 64;
  report.completion_tokens = 11;
  report.arrived = 1;
  report.first_scheduled = report.arrived + 400 * kMillisecond;
  report.first_token = report.first_scheduled + 700 * kMillisecond;
  report.finished = report.first_token + 1000 * kMillisecond;
  metrics.CountFinished(FinishReason::kStopString, report);
  metrics.CountFinished(FinishReason::kDeadline, SequenceReport{.arrived = 1, .finished = 2});
  const std::string page = metrics.Render();
  EXPECT_THAT(
      page, HasSubstr(Labelled("vllm:request_success_total", ",finished_reason=\"stop\"") + "1\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:request_success_total", ",finished_reason=\"abort\"") +
                              "1\n"));
  EXPECT_THAT(page, HasSubstr("\ntessera_deadline_misses_total 1\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:prompt_tokens_cached_total") + "64\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:request_queue_time_seconds_sum") + "0.4\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:request_decode_time_seconds_sum") + "1\n"));
  EXPECT_THAT(page,
              HasSubstr(Labelled("vllm:request_time_per_output_token_seconds_sum") + "0.1\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:e2e_request_latency_seconds_count") + "2\n"));
  EXPECT_THAT(page, HasSubstr(Labelled("vllm:request_queue_time_seconds_count") + "1\n"));
}

TEST(MetricsTest, HistogramsHaveVllmsBuckets) {
  Metrics metrics(TestOptions());
  metrics.ObserveFirstToken(15 * kMillisecond);
  const std::string page = metrics.Render();
  const std::string bucket =
      "vllm:time_to_first_token_seconds_bucket{engine=\"0\",model_name="
      "\"m\\\"odel\",le=";
  EXPECT_THAT(page, HasSubstr(bucket + "\"0.01\"} 0\n"));
  EXPECT_THAT(page, HasSubstr(bucket + "\"0.02\"} 1\n"));
  EXPECT_THAT(page, HasSubstr(bucket + "\"2560\"} 1\n"));
  EXPECT_THAT(page,
              HasSubstr("vllm:request_prompt_tokens_bucket{engine=\"0\",model_name=\"m\\\"odel\""
                        ",le=\"5000\"} 0\n"));
}

// "name{labels} value" or "name value".
bool IsSample(const std::string& line) {
  const size_t name_end =
      line.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:");
  if (name_end == 0 || name_end == std::string::npos) return false;
  const size_t value_begin = line.rfind(' ') + 1;
  const std::string labels = line.substr(name_end, value_begin - 1 - name_end);
  if (!labels.empty() && (labels.front() != '{' || labels.back() != '}')) return false;
  char* value_end = nullptr;
  std::strtod(line.c_str() + value_begin, &value_end);
  return value_begin < line.size() && *value_end == '\0';
}

// Every line of the page is a comment or a sample, and each name is declared once.
TEST(MetricsTest, PageIsWellFormed) {
  Metrics metrics(TestOptions());
  metrics.OnStep(MakeStep());
  std::istringstream page(metrics.Render());
  std::set<std::string> declared;
  int num_samples = 0;
  for (std::string line; std::getline(page, line);) {
    if (line.rfind("# TYPE ", 0) == 0) {
      EXPECT_TRUE(declared.insert(line).second) << line;
    } else if (line[0] != '#') {
      EXPECT_TRUE(IsSample(line)) << line;
      ++num_samples;
    }
  }
  EXPECT_GT(declared.size(), 30u);
  EXPECT_GT(num_samples, 300);
}

TEST(MetricsTest, RequestsShowOnTheDaemonsPage) {
  TestServer test;
  v1::GenerateResponse response;
  ASSERT_TRUE(
      test.generation->Generate(NewContext().get(), TextRequest("hello", 10), &response).ok());
  test.WaitUntilIdle();
  const std::string labels = "{engine=\"0\",model_name=\"alphabet\"}";
  EXPECT_EQ(test.Metric("vllm:time_to_first_token_seconds_count" + labels), 1);
  EXPECT_EQ(test.Metric("vllm:inter_token_latency_seconds_count" + labels), 9);
  EXPECT_EQ(test.Metric("vllm:generation_tokens_total" + labels), 10);
  EXPECT_EQ(test.Metric("vllm:request_generation_tokens_sum" + labels), 10);
  EXPECT_EQ(test.Metric("vllm:num_requests_running" + labels), 0);
  EXPECT_EQ(test.Metric("vllm:kv_cache_usage_perc" + labels), 0);
  EXPECT_GT(test.Metric("process_resident_memory_bytes"), 1e6);
  EXPECT_THAT(test.Http("GET /metrics"), HasSubstr("tessera_build_info{device=\"fake\","));
}

}  // namespace
}  // namespace tessera
