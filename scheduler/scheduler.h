#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "model/executor.h"
#include "scheduler/page_cache.h"
#include "scheduler/request.h"
#include "scheduler/snapshot.h"
#include "scheduler/step_plan.h"
#include "scheduler/step_time_model.h"
#include "scheduler/tenant_ledger.h"
#include "scheduler/waiting_queue.h"

namespace tessera {

struct SchedulerOptions {
  // The engine's door: past these, RESOURCE_EXHAUSTED. The scheduler itself never refuses these.
  int max_waiting_requests = 1024;
  int64_t max_waiting_prompt_tokens = 1 << 20;

  bool prefix_cache = true;
  // Rows of one prompt a step while others want some; 0: half of what decoding leaves, but all that
  // it lacks where those would fit one step.
  int max_prefill_chunk = 0;
  TimeNs target_step_time = 0;   // of steps that also decode (see LimitPrefillRows); 0: none
  int max_draft_tokens = 0;      // guessed ahead in a step for a sequence; 0: no speculation
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
  int64_t num_requests = 0;
  int64_t num_preemptions = 0;
  int64_t recomputed_tokens = 0;
  int64_t prefix_queried_tokens = 0;
  int64_t prefix_hit_tokens = 0;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t draft_tokens = 0;           // guesses that got a row
  int64_t accepted_draft_tokens = 0;  // and were right
};

struct SchedulerSnapshot {
  uint64_t step = 0;
  TimeNs taken_at = 0;
  SchedulerStats stats;
  // Running first, then waiting in the order they will run.
  std::vector<SequenceSnapshot> sequences;
};

// Decides what runs next. Pure bookkeeping: no thread, clock, device, log or I/O, so that a test
// can drive millions of steps of it. Time is a value that callers pass and that never goes
// backwards.
//
// There is no prefill phase and no decode phase: each step moves every sequence's `scheduled`
// cursor towards the end of its tokens under one token budget; sequences that lack one token go
// first, then prompts that are half computed, then new ones. Each step is planned, built, launched
// and committed, in this order; commands may come in between.
//
// With limits.max_in_flight of 2 a step may be planned and launched while the one before still
// runs. A sequence whose next token that one chooses has it as a pending token: where its row goes
// and whether it is the last by length are known ahead, which token it is the executor looks up
// (LastTokenOf). That it stops there shows only later: then a row was in vain, whose result is
// dropped, and slot and pages come free once that step is committed too.
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

  // Whether a Plan with nothing in flight would have something to run. Deadlines aside: see
  // NextDeadline.
  bool HasWork() const;

  // Plans one step, takes the pages it needs, and ends requests whose deadline has come (events).
  // Launch the plan before anything else is called, and later Commit its result, unless it is
  // empty; then there is nothing to commit. With a step in flight an empty plan may also mean that
  // what comes next cannot be planned before that step is committed.
  // REQUIRES: fewer than limits.max_in_flight steps are in flight.
  const StepPlan& Plan(TimeNs now, std::vector<TokenEvent>* events);

  // Applies what the oldest step in flight returned.
  void Commit(const StepResult& result, TimeNs now, std::vector<TokenEvent>* events);

  // When Plan must be called at the latest, work or not; kNoDeadline if never.
  TimeNs NextDeadline() const;

  SchedulerStats stats() const;
  // Why each sequence is where it is. `snapshot` is overwritten.
  void Explain(TimeNs now, SchedulerSnapshot* snapshot) const;

  // Aborts if an invariant is broken. For tests.
  void CheckInvariants() const;
  const PageCache& pages() const { return cache_; }

 private:
  // scheduler.cc: sequences and their ends.
  RequestState* FindRequest(RequestId id) const;
  Sequence* FindSequence(RequestId id, int index) const;
  void End(Sequence* sequence, TokenEvent event, TimeNs now, std::vector<TokenEvent>* events);
  void EndAll(RequestState* request, FinishReason reason, TimeNs now,
              std::vector<TokenEvent>* events);
  void Free(Sequence* sequence);
  void ReleaseSlots(Sequence* sequence);
  void InsertRunning(Sequence* sequence);
  void DropDeparted();
  void ForgetEnded();

  // scheduler_plan.cc: rows for running sequences.
  void BeginStep(TimeNs now);
  bool MayPlanAhead();
  int NumPagesToDecode() const;
  void ExpireDeadlines(std::vector<TokenEvent>* events);
  void PlanDecodes();
  void LimitPrefillRows();
  int ChunkLimit(int num_lacking) const;
  int NumRowsWithin(TimeNs limit, const StepWork& decodes) const;
  void PlanPrefills();
  void GiveLeftoverRows();
  void PlanRows(Sequence* sequence, int max_rows);
  int RowsWithinSamples(const Sequence& sequence, int num_rows) const;
  void AddToPlan(Sequence* sequence, int num_rows);
  void TakeOff();
  bool LacksNextPage(const Sequence& sequence) const;
  bool ReserveNextPage(Sequence* sequence);
  int rows_left() const { return row_limit_ - plan_->num_tokens; }

  // scheduler_preempt.cc: who gives way.
  bool PreemptFor(const Sequence& beneficiary);
  void PreemptForWaiting();
  bool FindVictims();
  bool FitsWithout(const Sequence& waiting, const std::vector<Sequence*>& victims);
  bool GivesWayTo(const Sequence& waiting, const Sequence& running) const;
  bool GivesWayBefore(const Sequence& a, const Sequence& b) const;
  int NumOwnPages(const Sequence& sequence) const;
  int NumPagesHeldOnlyBy(const std::vector<Sequence*>& sequences);
  void Preempt(Sequence* victim);

  // scheduler_admit.cc: who starts.
  struct Candidate {
    Sequence* sequence = nullptr;
    int priority = 0;             // to run with: better than its own where it is overdue
    bool is_overdue = false;      // chosen for its wait
    bool passes_overdue = false;  // chosen although another is overdue
  };
  void AdmitWaiting();
  bool MayPassBlocked(const Sequence& candidate);
  Candidate NextCandidate() const;
  WaitReason TryAdmit(const Candidate& candidate);
  bool StaysPartial(const Sequence& sequence) const;
  void MatchPrefix(const Sequence& sequence);
  bool WaitsForSharedPrefix(const Sequence& waiting) const;
  bool IsWorthWaitingFor(const Sequence& running, std::span<const TokenId> tokens) const;
  bool FitsPages(const Sequence& sequence, int num_free, int num_to_grow);
  int NumPagesToGrow() const;
  int NumPagesToGrow(const Sequence& running) const;
  void Start(const Candidate& candidate);
  void TakeSlots(Sequence* sequence);
  void TakePages(Sequence* sequence);
  void AccountStart(Sequence* sequence);

  // scheduler_commit.cc: what a step brought.
  using Samples = std::span<const SampledToken>;
  void CommitSequence(const StepPlan& plan, const PlannedSequence& planned, Samples samples,
                      TimeNs now, std::vector<TokenEvent>* events);
  void Land(const PlannedSequence& planned, Samples samples);
  void AcceptChoices(const PlannedSequence& planned, std::span<const TokenId> drafts,
                     Samples choices, TimeNs now, std::vector<TokenEvent>* events);
  void KeepPromptScores(const PlannedSequence& planned, Samples scores);
  void PublishPages(Sequence* sequence);
  void Fork(Sequence* sequence);
  void AcceptSample(Sequence* sequence, const SampledToken& sample, TimeNs now,
                    std::vector<TokenEvent>* events);

  // scheduler_draft.cc: speculation.
  void PlanDrafts();
  static bool IsDecode(const PlannedSequence& planned);
  void Draft(const StepWork& work, int num_decodes, PlannedSequence* planned);
  float LeastChance(const StepWork& work, int num_decodes, const Sequence& sequence) const;
  int NumDrafts(const Sequence& sequence, float least_chance) const;

  // scheduler_explain.cc
  SequenceSnapshot Describe(const Sequence& sequence, TimeNs now) const;
  WaitReason ReasonToWait(const Sequence& sequence, const Sequence& first) const;

  // scheduler_invariants.cc
  void CheckQueue() const;
  void CheckSequence(const Sequence& sequence) const;
  void CheckPageReferences() const;
  void CheckPlans() const;
  void CheckPlanned(const StepPlan& plan, const PlannedSequence& planned) const;

  const ExecutorLimits limits_;
  const SchedulerOptions options_;
  const int num_slots_;   // sequences that may run at once
  const int max_length_;  // tokens a sequence may reach: the context or the whole pool

  PageCache cache_;
  TenantLedger ledger_;
  WaitingQueue waiting_;
  std::unordered_map<RequestId, std::unique_ptr<RequestState>> requests_;
  std::set<std::pair<TimeNs, RequestId>> deadlines_;
  // Pinned sequences by age, then the others by priority and age: who is planned first when pages
  // are short. May hold sequences that left kRunning until DropDeparted.
  std::vector<Sequence*> running_;
  std::vector<RequestState*> ended_;  // to be forgotten once none of their rows are in flight
  std::vector<int32_t> free_slots_;

  StepTimeModel step_time_;
  std::vector<StepPlan> plans_;  // [limits.max_in_flight], a ring: those in flight, then the next
  int first_in_flight_ = 0;      // index of the oldest
  int num_in_flight_ = 0;
  StepPlan* plan_;            // of this step: the one being planned, or planned last
  TimeNs committed_ = 0;      // time of the last Commit
  int row_limit_ = 0;         // rows of this step at most
  int long_chunk_limit_ = 0;  // and of one prompt that no step could hold, while others want some
  uint64_t step_ = 0;
  TimeNs now_ = 0;              // of the last Plan
  bool pages_ran_out_ = false;  // in this step: nothing starts
  int num_partial_ = 0;         // prompts half computed after this step
  int num_admitted_past_overdue_ = 0;
  PrefixMatch match_;               // of the candidate at hand
  std::vector<Sequence*> blocked_;  // in this step: what later candidates pass
  std::vector<Sequence*> victims_;
  std::vector<int> num_holders_;  // [num_pages], 0 between uses
  WaitReason admission_stopped_by_ = WaitReason::kNone;

  SchedulerStats stats_;
};

}  // namespace tessera
