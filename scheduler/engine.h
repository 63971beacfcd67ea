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
#include "scheduler/queue_door.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"
#include "scheduler/snapshot.h"
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

// What one step did, for metrics. Of two steps in flight the later one's execution begins where the
// earlier one's ends.
struct StepReport {
  uint64_t step = 0;
  int num_rows = 0;
  int num_sequences = 0;
  int num_prefill_rows = 0;
  int num_draft_rows = 0;  // guesses, after the one row of each decoding sequence
  int num_samples = 0;
  TimeNs plan_ns = 0;     // plan and build
  TimeNs execute_ns = 0;  // from its launch, until it was waited for
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

// Called on the publisher thread: must not block.
using SnapshotCallback = std::function<void(std::shared_ptr<const SchedulerSnapshot>)>;

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
// and writing never delay the next step. No lock is held across a step. Where the executor takes
// two steps, the next one is planned, built and launched while one runs.
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
  // stopped, RESOURCE_EXHAUSTED while kMaxSnapshotCallers wait for one.
  static constexpr size_t kMaxSnapshotCallers = 64;
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
  // What is wanted of one sequence, and whether the engine thread has yet to hear of it.
  struct Wish {
    bool finish = false;
    bool parked = false;
    bool news = false;
  };
  // An accepted request that has sequences left.
  struct Unfinished {
    std::shared_ptr<TokenSink> sink;
    QueueDoor::Visitor visitor;
    TimeNs arrived = 0;
    int num_live = 0;                              // sequences
    FinishReason cancelled = FinishReason::kNone;  // why, if it is wanted
    std::vector<Wish> wishes;                      // [n]
    bool news = false;                             // its id is in news_
  };
  enum class CommandKind : uint8_t { kCancel, kFinish, kPark, kResume };
  struct Command {
    CommandKind kind = CommandKind::kCancel;
    RequestId id = 0;
    int index = 0;
    FinishReason reason = FinishReason::kNone;  // of kCancel
  };
  struct Delivery {
    std::shared_ptr<TokenSink> sink;
    TokenEvent event;
  };
  // A step launched and not yet waited for.
  struct Flight {
    StepTicket ticket = 0;
    StepReport report;
    TimeNs planned = 0;   // when planning began
    TimeNs launched = 0;  // when launching began
    bool backlog = false;
    int64_t started_prompt_tokens = 0;
  };
  struct Answer {
    SnapshotCallback done;
    std::shared_ptr<const SchedulerSnapshot> snapshot;
  };

  Engine(const EngineOptions& options, Executor* executor);

  // Any thread.
  absl::Status CheckDoor(const Request& request, TimeNs now, SubmitRefusal* refusal) const
      REQUIRES_LOCK(mutex_);
  void Accept(Request request, std::shared_ptr<TokenSink> sink, TimeNs now) REQUIRES_LOCK(mutex_);
  void AddNews(RequestId id, Unfinished* request) REQUIRES_LOCK(mutex_);
  template <typename Change>
  void ChangeWish(RequestId id, int index, Change change) EXCLUDES_LOCK(mutex_);

  // Engine thread.
  void RunSteps() EXCLUDES_LOCK(mutex_);
  // Waits while there is nothing to do. False: drained.
  bool TakeCommands() EXCLUDES_LOCK(mutex_);
  void WaitForNews() REQUIRES_LOCK(mutex_);
  bool HasNews() const REQUIRES_LOCK(mutex_);
  void CollectCommands() REQUIRES_LOCK(mutex_);
  void CancelAtDrainDeadline() REQUIRES_LOCK(mutex_);
  void ApplyCommands();
  void AnswerSnapshots() EXCLUDES_LOCK(mutex_);
  void RunStep() EXCLUDES_LOCK(mutex_);
  bool LaunchStep() EXCLUDES_LOCK(mutex_);
  void CommitStep() EXCLUDES_LOCK(mutex_);
  int64_t NoteStarts(const StepPlan& plan) EXCLUDES_LOCK(mutex_);
  void Deliver() EXCLUDES_LOCK(mutex_);
  void QueueDelivery(TokenEvent event) REQUIRES_LOCK(mutex_);

  // Publisher thread.
  void PublishEvents() EXCLUDES_LOCK(mutex_);
  bool TakeDeliveries(std::vector<Delivery>* deliveries, std::vector<Answer>* answers)
      EXCLUDES_LOCK(mutex_);

  const EngineOptions options_;
  const ExecutorLimits limits_;
  Clock* const clock_;
  Executor* const executor_;

  // Engine thread only, but for the scheduler's CheckAdmissible.
  Scheduler scheduler_;
  StepBuilder builder_;
  std::vector<Request> taken_;
  std::vector<Command> commands_;
  std::vector<SnapshotCallback> askers_;
  std::vector<TokenEvent> events_;
  std::vector<Flight> flights_;  // oldest first
  TimeNs executed_ = 0;          // end of the last step waited for
  TimeNs committed_ = 0;         // when it was committed
  // The last plan was empty: nothing can run before there is news or a deadline.
  bool idle_ = true;

  mutable Mutex mutex_;
  CondVar news_arrived_;        // for the engine thread
  CondVar deliveries_arrived_;  // for the publisher thread
  CondVar deliveries_taken_;    // for the engine thread
  CondVar stopped_;             // for Drain
  std::unordered_map<RequestId, Unfinished> unfinished_ GUARDED_BY(mutex_);
  QueueDoor door_ GUARDED_BY(mutex_);
  std::vector<Request> submissions_ GUARDED_BY(mutex_);
  std::vector<RequestId> news_ GUARDED_BY(mutex_);
  std::vector<SnapshotCallback> waiting_askers_ GUARDED_BY(mutex_);
  std::vector<Delivery> deliveries_ GUARDED_BY(mutex_);
  std::vector<Answer> answers_ GUARDED_BY(mutex_);
  bool draining_ GUARDED_BY(mutex_) = false;
  TimeNs drain_deadline_ GUARDED_BY(mutex_) = kNoDeadline;
  bool steps_ended_ GUARDED_BY(mutex_) = false;
  bool publisher_ended_ GUARDED_BY(mutex_) = false;

  std::thread publisher_thread_;
  std::thread engine_thread_;
};

}  // namespace tessera
