#pragma once

#include <memory>
#include <string>

#include "scheduler/engine.h"

namespace tessera {

// Why a request was turned away at the door: the values of the label `reason`.
enum class Rejection : uint8_t {
  kInvalid,
  kQueueRequests,
  kQueuePromptTokens,
  kOpenGenerations,
  kTenants,
  kQuota,
  kUnauthenticated,
  kDeadline,
  kDraining,
};

// What does not change while the daemon runs.
struct MetricsOptions {
  std::string model_name;
  std::string fingerprint;
  std::string device;
  int page_tokens = 0;
  int num_pages = 0;
  int max_context = 0;
  bool prefix_cache = true;
};

// Everything /metrics shows. Names that begin with "vllm:" mean what vLLM means by them, with its
// buckets, so that dashboards and autoscalers made for it work; ours begin with "tessera_". Every
// label's values come from a fixed list. Thread-safe; OnStep and OnIdle are the engine thread's.
class Metrics final : public EngineObserver {
 public:
  explicit Metrics(const MetricsOptions& options);
  ~Metrics() override;

  // The page, in Prometheus' text format.
  std::string Render() const;

  void OnStep(const StepReport& report) override;
  void OnIdle(const SchedulerStats& stats) override;

  void CountRejection(Rejection reason);
  void CountAccepted(int num_sequences, int max_tokens);  // max_tokens -1: not given
  void ObserveFirstToken(TimeNs since_arrival);
  void ObserveInterToken(TimeNs since_last_token);
  // Once a sequence.
  void CountFinished(FinishReason finish, const SequenceReport& report);
  // Of tenants that the key file names, so that there are only so many.
  void CountTenantTokens(const std::string& tenant, int prompt_tokens, int completion_tokens);
  void CountTenantRefusal(const std::string& tenant);

  // As of the last step.
  int num_unfinished_sequences() const;
  double kv_cache_usage() const;  // 0 to 1

 private:
  struct Instruments;

  void Update(const SchedulerStats& stats);
  void ObserveTimes(const SequenceReport& report);

  const std::unique_ptr<Instruments> instruments_;
  SchedulerStats last_stats_;  // engine thread only
};

}  // namespace tessera
