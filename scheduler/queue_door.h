#pragma once

#include <cstdint>
#include <map>

#include "absl/status/status.h"
#include "scheduler/request.h"

namespace tessera {

// Why a request was not accepted, for programs; the status beside it says the same to people.
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
  const char* what = "";      // with kTooMany...: what is limited, e.g. "waiting requests"
  int64_t limit = 0;          // with kTooMany...: what may be queued
  int64_t actual = 0;         // with kTooMany...: what it would have become
  TimeNs predicted_wait = 0;  // of a request that joins the queue's end now; 0: not known
};

struct QueueLimits {
  int max_waiting_requests = 0;
  int64_t max_waiting_prompt_tokens = 0;
  // Waiting, running and parked. Parked requests that have lost their pages neither wait nor run,
  // so the other limits would let them pile up.
  int max_unfinished_requests = 0;
};

// Counts the requests that wait and that are unfinished, refuses those for which there is no room
// or no time, and predicts how long a new one would wait. Pure bookkeeping, like the Scheduler.
class QueueDoor {
 public:
  // What the door must know of a request to let it in and out.
  struct Visitor {
    int priority = 0;
    int prompt_tokens = 0;
    bool waiting = true;
  };

  explicit QueueDoor(const QueueLimits& limits) : limits_(limits) {}

  // OK, or why not; then *refusal is filled. A prompt larger than the whole queue may enter when no
  // prompt waits, so that it is not refused for ever.
  absl::Status Check(const Visitor& visitor, TimeNs deadline, TimeNs now,
                     SubmitRefusal* refusal) const;

  void Enter(const Visitor& visitor);
  // It runs for the first time. No effect if it was not waiting.
  void Start(Visitor* visitor);
  // It has ended.
  void Leave(Visitor* visitor);

  // One step took `duration`, started requests of so many prompt tokens, and left others waiting.
  // (Steps that left none say nothing about how fast a queue moves.)
  void ObserveBacklog(TimeNs duration, int64_t started_prompt_tokens);

  // How long the prompts now waiting with this priority or a more urgent one take to start, at the
  // rate seen lately. Prompts cancelled from the queue make it shorter, never longer. 0: nothing
  // waits or there is too little to judge by.
  TimeNs PredictWait(int priority) const;

  int num_waiting() const { return num_waiting_; }
  int64_t waiting_prompt_tokens() const { return waiting_prompt_tokens_; }

 private:
  // Prompt tokens started, and the time that took while there was a queue.
  struct Service {
    TimeNs duration = 0;
    int64_t prompt_tokens = 0;
  };
  static constexpr TimeNs kWindow = 10'000'000'000;
  static constexpr TimeNs kMinEvidence = 500'000'000;

  absl::Status CheckRoom(const Visitor& visitor, SubmitRefusal* refusal) const;
  absl::Status CheckTime(const Visitor& visitor, TimeNs deadline, TimeNs now,
                         SubmitRefusal* refusal) const;

  const QueueLimits limits_;
  int num_unfinished_ = 0;
  int num_waiting_ = 0;
  int64_t waiting_prompt_tokens_ = 0;
  std::map<int, int64_t> waiting_by_priority_;  // prompt tokens; no zeros
  // The last window with a queue, and the one before: the newest evidence never vanishes at once.
  Service current_;
  Service previous_;
};

}  // namespace tessera
