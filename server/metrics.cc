#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "server/process_stats.h"
#include "server/version.h"

namespace tessera {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;

using Buckets = std::vector<double>;

const Buckets kFirstTokenSeconds = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                    1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
const Buckets kTokenSeconds = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                               .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
const Buckets kRequestSeconds = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
const Buckets kIterationTokens = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
const Buckets kSequences = {1, 2, 5, 10, 20};
const Buckets kStepSeconds = {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2,
                              2e-2, 5e-2, .1,   .2,   .5,   1,    2,    5,    10};

// 1, 2, 5, 10, 20, 50 ... up to and including the first that is not below `max`.
Buckets OneTwoFive(int max) {
  Buckets buckets;
  for (double decade = 1;; decade *= 10) {
    for (const double step : {1, 2, 5}) {
      buckets.push_back(decade * step);
      if (buckets.back() >= max) return buckets;
    }
  }
}

double Seconds(TimeNs time) { return static_cast<double>(time) * 1e-9; }

enum class Success : uint8_t { kStop, kLength, kAbort, kError };
constexpr std::array<const char*, 4> kSuccessLabels = {"stop", "length", "abort", "error"};
constexpr std::array<const char*, 9> kRejectionLabels = {
    "invalid",          "queue_requests", "queue_prompt_tokens",
    "open_generations", "tenants",        "quota",
    "unauthenticated",  "deadline",       "draining"};

constexpr char kStepRowsHelp[] =
    "Rows that steps computed: prompts', decoding sequences', and guesses.";

Success ToSuccess(FinishReason finish) {
  switch (finish) {
    case FinishReason::kStopToken:
    case FinishReason::kStopString:
      return Success::kStop;
    case FinishReason::kLength:
      return Success::kLength;
    case FinishReason::kNonFinite:
    case FinishReason::kNoTokenLeft:
      return Success::kError;
    default:
      return Success::kAbort;
  }
}

}  // namespace

// The registry and, by name, what is in it. Members are made in this order; references stay valid
// as long as the registry.
struct Metrics::Instruments {
  explicit Instruments(const MetricsOptions& options)
      : labels{{"model_name", options.model_name}, {"engine", "0"}},
        prompt_buckets(OneTwoFive(options.max_context)) {
    AddGauge("tessera_build_info", "Version, fingerprint and device; always 1.",
             {{"version", kTesseraVersion},
              {"fingerprint", options.fingerprint},
              {"device", options.device}})
        .Set(1);
    AddGauge("vllm:cache_config_info", "The KV cache's sizes; always 1.",
             With({{"block_size", std::to_string(options.page_tokens)},
                   {"num_gpu_blocks", std::to_string(options.num_pages)},
                   {"enable_prefix_caching", options.prefix_cache ? "True" : "False"}}))
        .Set(1);
    for (const char* reason : kSuccessLabels) {
      success.push_back(&AddCounter("vllm:request_success_total", "Finished sequences.",
                                    With({{"finished_reason", reason}})));
    }
    for (const char* reason : kRejectionLabels) {
      rejections.push_back(&AddCounter("tessera_requests_rejected_total",
                                       "Requests turned away at the door.", {{"reason", reason}}));
    }
  }

  Labels With(Labels more) const {
    more.insert(labels.begin(), labels.end());
    return more;
  }
  Counter& AddCounter(const std::string& name, const std::string& help, const Labels& with) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(with);
  }
  Gauge& AddGauge(const std::string& name, const std::string& help, const Labels& with) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(with);
  }
  Histogram& AddHistogram(const std::string& name, const std::string& help, const Buckets& buckets,
                          const Labels& with) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(with, buckets);
  }
  Histogram& AddSeconds(const std::string& name, const std::string& help, const Buckets& buckets) {
    return AddHistogram(name, help, buckets, labels);
  }
  Histogram& AddTokens(const std::string& name, const std::string& help) {
    return AddHistogram(name, help, prompt_buckets, labels);
  }
  Histogram& AddPhase(const std::string& phase) {
    return AddHistogram("tessera_step_seconds", "Time of a step by phase.", kStepSeconds,
                        {{"phase", phase}});
  }

  prometheus::Registry registry;
  const Labels labels;  // on every vLLM metric
  const Buckets prompt_buckets;

  // Of the engine.
  Gauge& running = AddGauge("vllm:num_requests_running", "Sequences in the running batch.", labels);
  Gauge& waiting = AddGauge("vllm:num_requests_waiting", "Requests that wait to run.", labels);
  Gauge& cache_usage = AddGauge("vllm:kv_cache_usage_perc",
                                "Part of the KV pages held by sequences, 0 to 1.", labels);
  Counter& prefix_queries = AddCounter("vllm:prefix_cache_queries_total",
                                       "Prompt tokens looked up in the cache.", labels);
  Counter& prefix_hits =
      AddCounter("vllm:prefix_cache_hits_total", "Prompt tokens found in the cache.", labels);
  Counter& preemptions =
      AddCounter("vllm:num_preemptions_total", "Sequences that lost their pages.", labels);
  Counter& prompt_tokens = AddCounter("vllm:prompt_tokens_total",
                                      "Prompt tokens of requests that began to run.", labels);
  Counter& prompt_tokens_cached = AddCounter("vllm:prompt_tokens_cached_total",
                                             "Prompt tokens that were not computed again.", labels);
  Counter& tokens_recomputed = AddCounter("vllm:prompt_tokens_recomputed_total",
                                          "Tokens computed again after preemption.", labels);
  Counter& draft_tokens = AddCounter("vllm:spec_decode_num_draft_tokens_total",
                                     "Tokens guessed ahead that were computed.", labels);
  Counter& accepted_draft_tokens = AddCounter("vllm:spec_decode_num_accepted_tokens_total",
                                              "Tokens guessed ahead that were right.", labels);
  Counter& generation_tokens =
      AddCounter("vllm:generation_tokens_total", "Tokens generated.", labels);
  Histogram& iteration_tokens =
      AddHistogram("vllm:iteration_tokens_total", "Rows of a step.", kIterationTokens, labels);

  // Of requests.
  std::vector<Counter*> success;  // by Success
  Histogram& request_prompt_tokens =
      AddTokens("vllm:request_prompt_tokens", "Prompt tokens of a sequence.");
  Histogram& request_generation_tokens =
      AddTokens("vllm:request_generation_tokens", "Tokens generated for a sequence.");
  Histogram& request_computed_tokens =
      AddTokens("vllm:request_prefill_kv_computed_tokens", "Prompt tokens not found in the cache.");
  Histogram& request_max_tokens =
      AddTokens("vllm:request_params_max_tokens", "max_tokens of a request.");
  Histogram& request_n =
      AddHistogram("vllm:request_params_n", "n of a request.", kSequences, labels);
  Histogram& first_token =
      AddSeconds("vllm:time_to_first_token_seconds", "Arrival to first token.", kFirstTokenSeconds);
  Histogram& inter_token = AddSeconds("vllm:inter_token_latency_seconds",
                                      "One token of a sequence to the next.", kTokenSeconds);
  Histogram& per_output_token =
      AddSeconds("vllm:request_time_per_output_token_seconds",
                 "A sequence's mean time from token to token.", kTokenSeconds);
  Histogram& e2e =
      AddSeconds("vllm:e2e_request_latency_seconds", "Arrival to end.", kRequestSeconds);
  Histogram& queue =
      AddSeconds("vllm:request_queue_time_seconds", "Arrival to first step.", kRequestSeconds);
  Histogram& inference =
      AddSeconds("vllm:request_inference_time_seconds", "First step to end.", kRequestSeconds);
  Histogram& prefill = AddSeconds("vllm:request_prefill_time_seconds", "First step to first token.",
                                  kRequestSeconds);
  Histogram& decode =
      AddSeconds("vllm:request_decode_time_seconds", "First token to end.", kRequestSeconds);

  // Ours.
  std::vector<Counter*> rejections;  // by Rejection
  Histogram& plan_seconds = AddPhase("plan");
  Histogram& execute_seconds = AddPhase("execute");
  Histogram& commit_seconds = AddPhase("commit");
  Gauge& step_sequences_max = AddGauge("tessera_step_sequences_max",
                                       "Most sequences that one step has had since start.", {});
  Counter& prefill_chunks = AddCounter("tessera_prefill_chunks_total",
                                       "Pieces of prompts computed, one a sequence and step.", {});
  Counter& prompt_rows = AddCounter("tessera_step_rows_total", kStepRowsHelp, {{"kind", "prompt"}});
  Counter& decode_rows = AddCounter("tessera_step_rows_total", kStepRowsHelp, {{"kind", "decode"}});
  Counter& draft_rows = AddCounter("tessera_step_rows_total", kStepRowsHelp, {{"kind", "draft"}});
  Gauge& parked = AddGauge("tessera_parked_sequences", "Sequences whose reader is too slow.", {});
  Gauge& waiting_prompt_tokens =
      AddGauge("tessera_waiting_prompt_tokens", "Prompt tokens of waiting requests.", {});
  Gauge& pages_used = AddGauge("tessera_kv_pages", "KV pages by state.", {{"state", "used"}});
  Gauge& pages_cached = AddGauge("tessera_kv_pages", "KV pages by state.", {{"state", "cached"}});
  Gauge& pages_free = AddGauge("tessera_kv_pages", "KV pages by state.", {{"state", "free"}});
  Counter& deadline_misses =
      AddCounter("tessera_deadline_misses_total", "Sequences ended by their deadline.", {});

  prometheus::Family<Counter>& tenant_tokens =
      prometheus::BuildCounter()
          .Name("tessera_tenant_tokens_total")
          .Help("Tokens of ended requests by tenant, where there are keys.")
          .Register(registry);
  prometheus::Family<Counter>& tenant_refusals = prometheus::BuildCounter()
                                                     .Name("tessera_tenant_quota_rejections_total")
                                                     .Help("Requests past their tenant's quota.")
                                                     .Register(registry);

  // Of the process; read when the page is.
  Mutex process_mutex;
  Gauge& resident_bytes = AddGauge("process_resident_memory_bytes", "Resident memory.", {});
  Gauge& open_fds = AddGauge("process_open_fds", "Open file descriptors.", {});
  Gauge& max_fds = AddGauge("process_max_fds", "Most file descriptors that may be open.", {});
  Gauge& start_time = AddGauge("process_start_time_seconds", "Start, Unix time.", {});
  Counter& cpu_seconds = AddCounter("process_cpu_seconds_total", "User and system time.", {});

  void ReadProcess() {
    const ProcessStats stats = ReadProcessStats();
    resident_bytes.Set(static_cast<double>(stats.resident_bytes));
    open_fds.Set(static_cast<double>(stats.num_open_fds));
    max_fds.Set(static_cast<double>(stats.max_fds));
    start_time.Set(stats.start_unix_seconds);
    MutexLock lock(&process_mutex);  // two scrapes at once would both add the difference
    cpu_seconds.Increment(std::max(0.0, stats.cpu_seconds - cpu_seconds.Value()));
  }
};

Metrics::Metrics(const MetricsOptions& options)
    : instruments_(std::make_unique<Instruments>(options)) {
  instruments_->pages_free.Set(options.num_pages);
}

Metrics::~Metrics() = default;

std::string Metrics::Render() const {
  instruments_->ReadProcess();
  return prometheus::TextSerializer().Serialize(instruments_->registry.Collect());
}

void Metrics::OnStep(const StepReport& report) {
  Instruments& in = *instruments_;
  in.iteration_tokens.Observe(report.num_rows);
  in.plan_seconds.Observe(Seconds(report.plan_ns));
  in.execute_seconds.Observe(Seconds(report.execute_ns));
  in.commit_seconds.Observe(Seconds(report.commit_ns));
  in.step_sequences_max.Set(std::max<double>(in.step_sequences_max.Value(), report.num_sequences));
  // A decoding sequence has one row, so the sequences left over are in their prompts.
  const int num_decoding = report.num_rows - report.num_prefill_rows - report.num_draft_rows;
  in.prefill_chunks.Increment(report.num_sequences - num_decoding);
  in.prompt_rows.Increment(report.num_prefill_rows);
  in.decode_rows.Increment(num_decoding);
  in.draft_rows.Increment(report.num_draft_rows);
  Update(report.stats);
}

void Metrics::OnIdle(const SchedulerStats& stats) { Update(stats); }

void Metrics::Update(const SchedulerStats& stats) {
  Instruments& in = *instruments_;
  in.running.Set(stats.num_running_sequences);
  in.waiting.Set(stats.num_waiting_requests + stats.num_preempted_sequences);
  in.parked.Set(stats.num_parked_sequences);
  in.waiting_prompt_tokens.Set(static_cast<double>(stats.waiting_prompt_tokens));
  in.cache_usage.Set(
      stats.num_pages == 0 ? 0.0 : static_cast<double>(stats.num_pages_used) / stats.num_pages);
  in.pages_used.Set(stats.num_pages_used);
  in.pages_cached.Set(stats.num_pages_cached);
  in.pages_free.Set(stats.num_pages - stats.num_pages_used - stats.num_pages_cached);

  const auto add = [](Counter& counter, int64_t now, int64_t before) {
    counter.Increment(static_cast<double>(now - before));
  };
  add(in.preemptions, stats.num_preemptions, last_stats_.num_preemptions);
  add(in.tokens_recomputed, stats.recomputed_tokens, last_stats_.recomputed_tokens);
  add(in.prefix_queries, stats.prefix_queried_tokens, last_stats_.prefix_queried_tokens);
  add(in.prefix_hits, stats.prefix_hit_tokens, last_stats_.prefix_hit_tokens);
  add(in.prompt_tokens, stats.prompt_tokens, last_stats_.prompt_tokens);
  add(in.draft_tokens, stats.draft_tokens, last_stats_.draft_tokens);
  add(in.accepted_draft_tokens, stats.accepted_draft_tokens, last_stats_.accepted_draft_tokens);
  add(in.generation_tokens, stats.generated_tokens, last_stats_.generated_tokens);
  last_stats_ = stats;
}

void Metrics::CountRejection(Rejection reason) {
  instruments_->rejections[static_cast<size_t>(reason)]->Increment();
}

void Metrics::CountAccepted(int num_sequences, int max_tokens) {
  instruments_->request_n.Observe(num_sequences);
  if (max_tokens > 0) instruments_->request_max_tokens.Observe(max_tokens);
}

void Metrics::CountTenantTokens(const std::string& tenant, int prompt_tokens,
                                int completion_tokens) {
  Instruments& in = *instruments_;
  in.tenant_tokens.Add({{"tenant", tenant}, {"kind", "prompt"}}).Increment(prompt_tokens);
  in.tenant_tokens.Add({{"tenant", tenant}, {"kind", "completion"}}).Increment(completion_tokens);
}

void Metrics::CountTenantRefusal(const std::string& tenant) {
  instruments_->tenant_refusals.Add({{"tenant", tenant}}).Increment();
}

int Metrics::num_unfinished_sequences() const {
  return static_cast<int>(instruments_->running.Value() + instruments_->waiting.Value());
}

double Metrics::kv_cache_usage() const { return instruments_->cache_usage.Value(); }

void Metrics::ObserveFirstToken(TimeNs since_arrival) {
  instruments_->first_token.Observe(Seconds(since_arrival));
}

void Metrics::ObserveInterToken(TimeNs since_last_token) {
  instruments_->inter_token.Observe(Seconds(since_last_token));
}

void Metrics::CountFinished(FinishReason finish, const SequenceReport& report) {
  Instruments& in = *instruments_;
  in.success[static_cast<size_t>(ToSuccess(finish))]->Increment();
  if (finish == FinishReason::kDeadline) in.deadline_misses.Increment();
  in.request_prompt_tokens.Observe(report.prompt_tokens);
  in.request_generation_tokens.Observe(report.completion_tokens);
  in.request_computed_tokens.Observe(report.prompt_tokens - report.cached_tokens);
  in.prompt_tokens_cached.Increment(report.cached_tokens);
  ObserveTimes(report);
}

void Metrics::ObserveTimes(const SequenceReport& report) {
  Instruments& in = *instruments_;
  in.e2e.Observe(Seconds(report.finished - report.arrived));
  if (report.first_scheduled == 0) return;
  in.queue.Observe(Seconds(report.first_scheduled - report.arrived));
  in.inference.Observe(Seconds(report.finished - report.first_scheduled));
  if (report.first_token == 0) return;
  in.prefill.Observe(Seconds(report.first_token - report.first_scheduled));
  in.decode.Observe(Seconds(report.finished - report.first_token));
  if (report.completion_tokens < 2) return;
  in.per_output_token.Observe(Seconds(report.finished - report.first_token) /
                              (report.completion_tokens - 1));
}

}  // namespace tessera
