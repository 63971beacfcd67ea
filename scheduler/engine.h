#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "model/executor.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"
#include "scheduler/step_builder.h"

namespace tessera {

// Hears of one request's tokens. Called from the publisher thread only, in order, and never again once
// each of the request's sequences has had its finishing event.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void OnToken(TokenEvent event) = 0;
};

// What one step did, for metrics. Called on the engine thread: must be quick and must not block.
struct StepReport {
  int num_rows = 0;
  int num_sequences = 0;
  int num_prefill_rows = 0;
  int num_samples = 0;
  TimeNs plan_ns = 0;     // plan and build
  TimeNs execute_ns = 0;  // launch and wait
  TimeNs commit_ns = 0;
  SchedulerStats stats;   // after the step
};
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnStep(const StepReport& report) = 0;
  // A change of counts without a step, e.g. the last request was cancelled.
  virtual void OnIdle(const SchedulerStats& stats) = 0;
};

struct EngineOptions {
  SchedulerOptions scheduler;
};

}  // namespace tessera
