#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "model/executor.h"
#include "scheduler/clock.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"
#include "scheduler/step_builder.h"

namespace tessera {

// Hears of one request's tokens. Called from the publisher thread only, in order, and never again
// once each of the request's sequences has had its finishing event. Must not block: every stream's
// tokens pass through this one thread. A reader that falls behind asks for Park.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void OnToken(TokenEvent event) = 0;
};

// What one step did, for metrics.
struct StepReport {
  uint64_t step = 0;
  int num_rows = 0;
  int num_sequences = 0;
  int num_prefill_rows = 0;
  int num_samples = 0;
  TimeNs plan_ns = 0;     // plan and build
  TimeNs execute_ns = 0;  // launch and wait
  TimeNs commit_ns = 0;
  SchedulerStats stats;  // after the step
};

// Called on the engine thread: must be quick and must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnStep(const StepReport& report) = 0;
  // A change of counts without a step, e.g. the last request was cancelled.
  virtual void OnIdle(const SchedulerStats& stats) = 0;
};

// Why Submit refused, for programs; its status says the same to people.
enum class RefusalReason : uint8_t {
  kNone,
  kInvalid,              // INVALID_ARGUMENT: could never run
  kDraining,             // UNAVAILABLE
  kTooManyRequests,      // RESOURCE_EXHAUSTED
  kTooManyPromptTokens,  // RESOURCE_EXHAUSTED
  kDeadline,  // DEADLINE_EXCEEDED: passed, or sooner than the queue is predicted to clear
};

struct SubmitRefusal {
  RefusalReason reason = RefusalReason::kNone;
  int64_t limit = 0;          // of the queue's requests or prompt tokens
  int64_t actual = 0;         // what it would have become
  TimeNs predicted_wait = 0;  // of a request at the queue's end; 0: not known
};

// What runs and what waits, taken between two steps.
struct EngineSnapshot {
  uint64_t step = 0;  // steps done when this was taken
  TimeNs taken_at = 0;
  SchedulerStats stats;
  std::vector<SequenceSnapshot>
      sequences;  // running first, then waiting in the order they will run
};
using SnapshotCallback = std::function<void(std::shared_ptr<const EngineSnapshot>)>;

// The commands that come back from streams to the engine. Thread-safe, never block, may be called
// by a sink; take effect at the next step boundary, and are harmless for what has ended meanwhile.
//
// They state what is wanted and are not queued: repeating one costs nothing, and of Park and Resume
// the last counts. So commands take a few bytes a sequence, however often they are sent.
class RequestControl {
 public:
  virtual ~RequestControl() = default;
  // Ends all of a request's sequences. False: unknown, or ended.
  virtual bool Cancel(RequestId id) = 0;
  // Ends one sequence with kStopString.
  virtual void Finish(RequestId id, int index) = 0;
  // Stops giving a sequence rows until Resume; it is the first to lose its pages.
  virtual void Park(RequestId id, int index) = 0;
  virtual void Resume(RequestId id, int index) = 0;
};

struct EngineOptions {
  SchedulerOptions scheduler;
  Clock* clock = nullptr;              // null: SteadyClock(); else outlives the engine
  EngineObserver* observer = nullptr;  // may be null; else outlives the engine
  // Events the publisher may lag behind before the next step waits for it.
  int max_undelivered_events = 4096;
};

// Two threads around a Scheduler and an Executor. The engine thread (worker 0 of the executor)
// applies commands and runs steps; the publisher thread hands events to sinks, so that detokenizing
// and writing never delay the next step. No lock is held across a step.
//
//   any thread --submissions, wanted states--> engine thread --events--> publisher thread --> sinks
//
// Both directions are bounded by design. Towards the engine: the queue limits at Submit (waiting,
// and unfinished requests in all, so that parked ones cannot pile up) and one wanted state a
// sequence. Towards the publisher: sinks do not block, so it lags only when the machine is short of
// CPU, not when a client is slow (that sink parks its own sequence); then the next step waits for
// it, which slows all sequences alike and keeps max_undelivered_events plus two steps' events in
// memory at most.
//
// With nothing to run the engine thread sleeps; submissions, commands, snapshots, drains and
// deadlines wake it, and nothing polls.
//
// Every accepted sequence gets exactly one finishing event, also when it is cancelled or drained.
class Engine final : public RequestControl {
 public:
  // A bad setup is a status. *executor outlives the engine and is used by the engine thread alone.
  static absl::StatusOr<std::unique_ptr<Engine>> Start(const EngineOptions& options,
                                                       Executor* executor);
  // Cancels what is left, as Drain with a deadline that has passed.
  ~Engine() override;

  // Thread-safe. On OK the sink gets one finishing event for each of the request's sequences, maybe
  // before Submit returns; otherwise it is dropped unused and *refusal, if not null, says why.
  absl::Status Submit(Request request, std::shared_ptr<TokenSink> sink,
                      SubmitRefusal* refusal = nullptr) EXCLUDES_LOCK(mutex_);

  bool Cancel(RequestId id) override EXCLUDES_LOCK(mutex_);
  void Finish(RequestId id, int index) override EXCLUDES_LOCK(mutex_);
  void Park(RequestId id, int index) override EXCLUDES_LOCK(mutex_);
  void Resume(RequestId id, int index) override EXCLUDES_LOCK(mutex_);

  // Thread-safe. Takes a snapshot at the next step boundary and calls `done` on the publisher
  // thread. Those who ask during one step share one snapshot. UNAVAILABLE once the engine has
  // stopped.
  absl::Status RequestSnapshot(SnapshotCallback done) EXCLUDES_LOCK(mutex_);

  // Thread-safe. Refuses new requests from now on; what is unfinished at the deadline ends with
  // kShutdown. A second call can only bring the deadline nearer.
  void StartDrain(TimeNs deadline) EXCLUDES_LOCK(mutex_);
  // StartDrain, then waits until every event has been delivered and both threads are done. Not to
  // be called by a sink, a snapshot's callback or the observer.
  void Drain(TimeNs deadline) EXCLUDES_LOCK(mutex_);

  TimeNs Now() const { return clock_->Now(); }
  bool draining() const EXCLUDES_LOCK(mutex_);
  int num_unfinished_requests() const EXCLUDES_LOCK(mutex_);
  const ExecutorLimits& limits() const { return limits_; }

 private:
};

}  // namespace tessera
