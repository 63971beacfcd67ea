#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "model/executor.h"
#include "scheduler/page_cache.h"
#include "scheduler/request.h"
#include "scheduler/snapshot.h"
#include "scheduler/step_plan.h"
#include "scheduler/tenant_ledger.h"
#include "scheduler/waiting_queue.h"

namespace tessera {

struct SchedulerOptions {
  // The engine's door: past these, RESOURCE_EXHAUSTED. The scheduler itself never refuses these.
  int max_waiting_requests = 1024;
  int64_t max_waiting_prompt_tokens = 1 << 20;

  bool prefix_cache = true;
  int max_prefill_chunk = 0;     // rows of one prompt a step while others want some; 0: half of all
  int max_partial_prefills = 4;  // prompts that may be half computed at once
  int max_bypasses = 8;          // admissions past a request that does not fit yet
  int max_preemptions = 3;       // of one sequence, then it gives way only to older such ones
  TimeNs overdue_after = 10'000'000'000;  // a wait after which priority is not everything
  int overdue_share = 4;  // one admission in so many goes to an overdue, less urgent request
};

struct SchedulerStats {
  int num_waiting_requests = 0;  // not started yet; preempted sequences do not count
  int num_running_sequences = 0;
  int num_parked_sequences = 0;
  int num_preempted_sequences = 0;  // started, now waiting again
  int num_pages = 0;
  int num_pages_used = 0;    // held by a sequence
  int num_pages_cached = 0;  // free to take, but still holding a reusable prefix
  int64_t waiting_prompt_tokens = 0;
  // Since start:
  int64_t num_preemptions = 0;
  int64_t recomputed_tokens = 0;
  int64_t prefix_queried_tokens = 0;
  int64_t prefix_hit_tokens = 0;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
};

struct SchedulerSnapshot {
  uint64_t step = 0;
  TimeNs taken_at = 0;
  SchedulerStats stats;
  std::vector<SequenceSnapshot>
      sequences;  // running first, then waiting in the order they will run
};

// Decides what runs next. Pure bookkeeping: no thread, clock, device, log or I/O, so that a test
// can drive millions of steps of it. Time is a value that callers pass and that never goes
// backwards.
//
// There is no prefill phase and no decode phase: each step moves every sequence's `scheduled`
// cursor towards the end of its tokens under one token budget; sequences that lack one token go
// first, then prompts that are half computed, then new ones. A step is planned, built, run and
// committed before the next one is planned; commands may come in between.
//
// Every accepted request's sequences each get exactly one event with finish != kNone, the last.
class Scheduler {
 public:
  Scheduler(const ExecutorLimits& limits, const SchedulerOptions& options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // INVALID_ARGUMENT for a request that can never run: whatever else happens, it would not fit.
  // Reads constants only, so any thread may ask, also while another uses the scheduler.
  absl::Status CheckAdmissible(const Request& request) const;

  // REQUIRES: CheckAdmissible(request) is OK, and request.id is not in use.
  void Add(Request request, TimeNs now);

  // Ends every sequence of the request that has not ended, with an event each: kCancelled, or
  // another reason the caller has. False if the request is unknown, e.g. has ended.
  bool Cancel(RequestId id, FinishReason reason, TimeNs now, std::vector<TokenEvent>* events);
  // Ends one sequence, with an event: the server found a stop string in its text.
  bool Finish(RequestId id, int index, FinishReason reason, TimeNs now,
              std::vector<TokenEvent>* events);
  // A parked sequence keeps its place but gets no rows: its reader is slow. No effect if unknown.
  void Park(RequestId id, int index);
  void Resume(RequestId id, int index);

  // Whether a Plan now would have something to run. Deadlines aside: see NextDeadline.
  bool HasWork() const;

  // Plans one step, takes the pages it needs, and ends requests whose deadline has come (events).
  // Run the plan and Commit its result, unless it is empty; then there is nothing to commit.
  // REQUIRES: the previous plan was empty or has been committed.
  const StepPlan& Plan(TimeNs now, std::vector<TokenEvent>* events);

  // Applies what the last plan's step returned.
  void Commit(const StepResult& result, TimeNs now, std::vector<TokenEvent>* events);

  // When Plan must be called at the latest, work or not; kNoDeadline if never.
  TimeNs NextDeadline() const;

  SchedulerStats stats() const;
  // Why each sequence is where it is. `snapshot` is overwritten.
  void Explain(TimeNs now, SchedulerSnapshot* snapshot) const;

  // Aborts if an invariant is broken. For tests.
  void CheckInvariants() const;

 private:
  // scheduler.cc: sequences and their ends.
  RequestState* FindRequest(RequestId id) const;
  Sequence* FindSequence(RequestId id, int index) const;
  void End(Sequence* sequence, TokenEvent event, TimeNs now, std::vector<TokenEvent>* events);
  void Free(Sequence* sequence, bool publish_tail);
  void ForgetFinished(RequestState* request);
  void ExpireDeadlines(TimeNs now, std::vector<TokenEvent>* events);

  // scheduler_plan.cc: rows for running sequences.
  void BeginStep(TimeNs now);
  void PlanDecodes();
  void PlanPrefills();
  void GiveLeftoverRows();
  void PlanRows(Sequence* sequence, int max_rows);
  int RowsWithinSamples(const Sequence& sequence, int num_rows) const;
  bool ReserveNextPage(Sequence* sequence);
  bool MakePageFree(Sequence* beneficiary);

  // scheduler_preempt.cc: who gives way.
  Sequence* PickVictim(const Sequence& beneficiary) const;
  void Preempt(Sequence* victim);

  // scheduler_admit.cc: who starts.
  void AdmitWaiting();
  Sequence* NextCandidate();
  WaitReason TryAdmit(Sequence* sequence);
  bool WaitsForSharedPrefix(const Sequence& sequence) const;
  void Start(Sequence* sequence);

  const ExecutorLimits limits_;
  const SchedulerOptions options_;
  const int num_slots_;   // sequences that may run at once
  const int max_length_;  // tokens a sequence may reach: the context or the whole pool
};

}  // namespace tessera
