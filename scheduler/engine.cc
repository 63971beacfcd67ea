#include "scheduler/engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"

namespace tessera {
namespace {

absl::Status CheckAtLeastOne(const char* field, int64_t actual) {
  if (actual >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: expected at least 1, got %d", field, actual));
}

absl::Status CheckSetup(const EngineOptions& options, const ExecutorLimits& limits) {
  RETURN_IF_ERROR(CheckAtLeastOne("KV pages", limits.num_pages));
  RETURN_IF_ERROR(CheckAtLeastOne("tokens a page", limits.page_tokens));
  RETURN_IF_ERROR(CheckAtLeastOne("max batch tokens", limits.max_batch_tokens));
  RETURN_IF_ERROR(CheckAtLeastOne("max running", limits.max_running));
  RETURN_IF_ERROR(CheckAtLeastOne("max context", limits.max_context));
  RETURN_IF_ERROR(CheckAtLeastOne("max samples", limits.max_samples));
  if (limits.max_context < 2 || int64_t{limits.num_pages} * limits.page_tokens < 2) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "context and KV cache: expected room for a prompt token and an output token, got %d and %d",
        limits.max_context, int64_t{limits.num_pages} * limits.page_tokens));
  }
  RETURN_IF_ERROR(CheckAtLeastOne("max waiting", options.scheduler.max_waiting_requests));
  RETURN_IF_ERROR(
      CheckAtLeastOne("max waiting prompt tokens", options.scheduler.max_waiting_prompt_tokens));
  return CheckAtLeastOne("max undelivered events", options.max_undelivered_events);
}

QueueLimits MakeQueueLimits(const SchedulerOptions& options, const ExecutorLimits& limits) {
  return {.max_waiting_requests = options.max_waiting_requests,
          .max_waiting_prompt_tokens = options.max_waiting_prompt_tokens,
          .max_unfinished_requests = options.max_waiting_requests + limits.max_running};
}

// The plan is gone once it is committed.
StepReport Describe(const StepPlan& plan) {
  StepReport report;
  report.step = plan.step;
  report.num_rows = plan.num_tokens;
  report.num_sequences = static_cast<int>(plan.sequences.size());
  report.num_prefill_rows = plan.num_prefill_tokens;
  report.num_draft_rows = static_cast<int>(plan.drafts.size());
  report.num_samples = plan.num_samples;
  return report;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Start(const EngineOptions& options,
                                                      Executor* executor) {
  RETURN_IF_ERROR(CheckSetup(options, executor->limits()));
  return std::unique_ptr<Engine>(new Engine(options, executor));
}

Engine::Engine(const EngineOptions& options, Executor* executor)
    : options_(options),
      limits_(executor->limits()),
      clock_(options.clock != nullptr ? options.clock : SteadyClock()),
      executor_(executor),
      scheduler_(limits_, options.scheduler),
      builder_(limits_),
      door_(MakeQueueLimits(options.scheduler, limits_)),
      publisher_thread_([this] { PublishEvents(); }),
      engine_thread_([this] { RunSteps(); }) {}

Engine::~Engine() {
  Drain(clock_->Now());
  engine_thread_.join();
  publisher_thread_.join();
}

absl::Status Engine::Submit(Request request, std::shared_ptr<TokenSink> sink,
                            SubmitRefusal* refusal) {
  SubmitRefusal unread;
  if (refusal == nullptr) refusal = &unread;
  *refusal = {};
  if (absl::Status status = scheduler_.CheckAdmissible(request); !status.ok()) {
    refusal->reason = RefusalReason::kInvalid;
    return status;
  }
  const TimeNs now = clock_->Now();
  MutexLock lock(&mutex_);
  RETURN_IF_ERROR(CheckDoor(request, now, refusal));
  Accept(std::move(request), std::move(sink), now);
  return absl::OkStatus();
}

absl::Status Engine::CheckDoor(const Request& request, TimeNs now, SubmitRefusal* refusal) const {
  if (draining_) {
    refusal->reason = RefusalReason::kDraining;
    return absl::UnavailableError("the server is shutting down");
  }
  if (unfinished_.contains(request.id)) {
    refusal->reason = RefusalReason::kInvalid;
    return absl::AlreadyExistsError(absl::StrFormat("request id: %x is in use", request.id));
  }
  const QueueDoor::Visitor visitor = {.priority = request.priority,
                                      .prompt_tokens = static_cast<int>(request.prompt.size())};
  return door_.Check(visitor, request.deadline, now, refusal);
}

void Engine::Accept(Request request, std::shared_ptr<TokenSink> sink, TimeNs now) {
  Unfinished& entry = unfinished_[request.id];
  entry.sink = std::move(sink);
  entry.visitor = {.priority = request.priority,
                   .prompt_tokens = static_cast<int>(request.prompt.size())};
  entry.arrived = now;
  entry.num_live = request.num_sequences;
  entry.wishes.resize(request.num_sequences);
  door_.Enter(entry.visitor);
  submissions_.push_back(std::move(request));
  news_arrived_.NotifyOne();
}

bool Engine::Cancel(RequestId id) {
  MutexLock lock(&mutex_);
  const auto found = unfinished_.find(id);
  if (found == unfinished_.end()) return false;
  if (found->second.cancelled == FinishReason::kNone) {
    found->second.cancelled = FinishReason::kCancelled;
    AddNews(id, &found->second);
  }
  return true;
}

void Engine::Finish(RequestId id, int index) {
  ChangeWish(id, index, [](Wish* wish) { wish->finish = true; });
}

void Engine::Park(RequestId id, int index) {
  ChangeWish(id, index, [](Wish* wish) { wish->parked = true; });
}

void Engine::Resume(RequestId id, int index) {
  ChangeWish(id, index, [](Wish* wish) { wish->parked = false; });
}

template <typename Change>
void Engine::ChangeWish(RequestId id, int index, Change change) {
  MutexLock lock(&mutex_);
  const auto found = unfinished_.find(id);
  if (found == unfinished_.end()) return;
  std::vector<Wish>& wishes = found->second.wishes;
  CHECK(index >= 0 && index < static_cast<int>(wishes.size())) << "no such sequence: " << index;
  change(&wishes[index]);
  wishes[index].news = true;
  AddNews(id, &found->second);
}

void Engine::AddNews(RequestId id, Unfinished* request) {
  if (!std::exchange(request->news, true)) news_.push_back(id);
  news_arrived_.NotifyOne();
}

absl::Status Engine::RequestSnapshot(SnapshotCallback done) {
  MutexLock lock(&mutex_);
  if (steps_ended_) return absl::UnavailableError("the engine has stopped");
  if (waiting_askers_.size() >= kMaxSnapshotCallers) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("snapshots asked for at once: expected at most %d, this would be number %d",
                        kMaxSnapshotCallers, waiting_askers_.size() + 1));
  }
  waiting_askers_.push_back(std::move(done));
  news_arrived_.NotifyOne();
  return absl::OkStatus();
}

void Engine::StartDrain(TimeNs deadline) {
  MutexLock lock(&mutex_);
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, deadline);
  news_arrived_.NotifyOne();
}

void Engine::Drain(TimeNs deadline) {
  StartDrain(deadline);
  MutexLock lock(&mutex_);
  while (!publisher_ended_) stopped_.Wait(&mutex_);
}

bool Engine::draining() const {
  MutexLock lock(&mutex_);
  return draining_;
}

int Engine::num_unfinished_requests() const {
  MutexLock lock(&mutex_);
  return static_cast<int>(unfinished_.size());
}

void Engine::RunSteps() {
  while (TakeCommands()) {
    ApplyCommands();
    Deliver();
    AnswerSnapshots();
    RunStep();
    Deliver();
  }
}

bool Engine::TakeCommands() {
  MutexLock lock(&mutex_);
  WaitForNews();
  CancelAtDrainDeadline();
  if (draining_ && unfinished_.empty() && waiting_askers_.empty() && flights_.empty()) {
    steps_ended_ = true;
    deliveries_arrived_.NotifyOne();
    return false;
  }
  taken_.swap(submissions_);
  askers_.swap(waiting_askers_);
  CollectCommands();
  return true;
}

void Engine::WaitForNews() {
  const TimeNs deadline = scheduler_.NextDeadline();
  while (idle_ && !HasNews()) {
    const TimeNs wake_at = std::min(deadline, drain_deadline_);
    if (wake_at <= clock_->Now()) return;
    clock_->WaitUntil(&news_arrived_, &mutex_, wake_at);
  }
}

bool Engine::HasNews() const {
  return !submissions_.empty() || !news_.empty() || !waiting_askers_.empty() ||
         (draining_ && unfinished_.empty());
}

void Engine::CancelAtDrainDeadline() {
  if (!draining_ || clock_->Now() < drain_deadline_) return;
  for (auto& [id, request] : unfinished_) {
    if (request.cancelled != FinishReason::kNone) continue;
    request.cancelled = FinishReason::kShutdown;
    AddNews(id, &request);
  }
}

void Engine::CollectCommands() {
  for (const RequestId id : news_) {
    const auto found = unfinished_.find(id);
    if (found == unfinished_.end()) continue;
    Unfinished& request = found->second;
    request.news = false;
    if (request.cancelled != FinishReason::kNone) {
      commands_.push_back({CommandKind::kCancel, id, 0, request.cancelled});
      continue;
    }
    for (size_t i = 0; i < request.wishes.size(); ++i) {
      Wish& wish = request.wishes[i];
      if (!std::exchange(wish.news, false)) continue;
      const CommandKind kind = wish.finish   ? CommandKind::kFinish
                               : wish.parked ? CommandKind::kPark
                                             : CommandKind::kResume;
      commands_.push_back({kind, id, static_cast<int>(i)});
    }
  }
  news_.clear();
}

void Engine::ApplyCommands() {
  const TimeNs now = clock_->Now();
  for (Request& request : taken_) scheduler_.Add(std::move(request), now);
  taken_.clear();
  for (const Command& command : commands_) {
    switch (command.kind) {
      case CommandKind::kCancel:
        scheduler_.Cancel(command.id, command.reason, now, &events_);
        break;
      case CommandKind::kFinish:
        scheduler_.Finish(command.id, command.index, FinishReason::kStopString, now, &events_);
        break;
      case CommandKind::kPark:
        scheduler_.Park(command.id, command.index);
        break;
      case CommandKind::kResume:
        scheduler_.Resume(command.id, command.index);
        break;
    }
  }
  commands_.clear();
}

void Engine::AnswerSnapshots() {
  if (askers_.empty()) return;
  auto snapshot = std::make_shared<SchedulerSnapshot>();
  scheduler_.Explain(clock_->Now(), snapshot.get());
  MutexLock lock(&mutex_);
  for (SnapshotCallback& done : askers_) answers_.push_back({std::move(done), snapshot});
  askers_.clear();
  deliveries_arrived_.NotifyOne();
}

// Waits for the oldest step in flight once no other can be launched beside it.
void Engine::RunStep() {
  const bool launched = LaunchStep();
  idle_ = !launched && flights_.empty() && events_.empty();
  const bool is_full = static_cast<int>(flights_.size()) == limits_.max_in_flight;
  if (is_full || (!launched && !flights_.empty())) {
    CommitStep();
  } else if (!launched && options_.observer != nullptr) {
    options_.observer->OnIdle(scheduler_.stats());
  }
}

// False if there is nothing to launch.
bool Engine::LaunchStep() {
  Flight flight;
  flight.planned = clock_->Now();
  const StepPlan& plan = scheduler_.Plan(flight.planned, &events_);
  if (plan.empty()) return false;
  flight.report = Describe(plan);
  flight.started_prompt_tokens = NoteStarts(plan);
  flight.backlog = scheduler_.stats().num_waiting_requests > 0;
  const StepInput& input = builder_.Build(plan);
  flight.launched = clock_->Now();
  flight.ticket = executor_->Launch(input);
  flights_.push_back(flight);
  return true;
}

void Engine::CommitStep() {
  Flight flight = flights_.front();
  flights_.erase(flights_.begin());
  const StepResult result = executor_->Wait(flight.ticket);
  const TimeNs executed = clock_->Now();
  scheduler_.Commit(result, executed, &events_);
  const TimeNs committed = clock_->Now();

  flight.report.plan_ns = flight.launched - flight.planned;
  flight.report.execute_ns = executed - std::max(flight.launched, executed_);
  flight.report.commit_ns = committed - executed;
  flight.report.stats = scheduler_.stats();
  if (options_.observer != nullptr) options_.observer->OnStep(flight.report);
  const TimeNs took = committed - std::max(flight.planned, committed_);
  executed_ = executed;
  committed_ = committed;
  if (!flight.backlog) return;
  MutexLock lock(&mutex_);
  door_.ObserveBacklog(took, flight.started_prompt_tokens);
}

// Prompt tokens of the requests that start.
int64_t Engine::NoteStarts(const StepPlan& plan) {
  if (plan.slot_starts.empty()) return 0;
  int64_t num_prompt_tokens = 0;
  MutexLock lock(&mutex_);
  for (const Sequence* sequence : plan.slot_starts) {
    const auto found = unfinished_.find(sequence->owner->request.id);
    CHECK(found != unfinished_.end()) << "a planned request has ended";
    QueueDoor::Visitor& visitor = found->second.visitor;
    if (visitor.waiting) num_prompt_tokens += visitor.prompt_tokens;
    door_.Start(&visitor);
  }
  return num_prompt_tokens;
}

void Engine::Deliver() {
  if (events_.empty()) return;
  MutexLock lock(&mutex_);
  for (TokenEvent& event : events_) QueueDelivery(std::move(event));
  events_.clear();
  deliveries_arrived_.NotifyOne();
  const auto max_undelivered = static_cast<size_t>(options_.max_undelivered_events);
  while (deliveries_.size() >= max_undelivered) deliveries_taken_.Wait(&mutex_);
}

void Engine::QueueDelivery(TokenEvent event) {
  const auto found = unfinished_.find(event.request);
  CHECK(found != unfinished_.end()) << "an event of a request that has ended: " << event.request;
  Unfinished& request = found->second;
  if (event.finish == FinishReason::kNone) {
    deliveries_.push_back({request.sink, std::move(event)});
    return;
  }
  event.report.arrived = request.arrived;  // the scheduler hears of it up to a step later
  const bool last = --request.num_live == 0;
  deliveries_.push_back({request.sink, std::move(event)});
  if (!last) return;
  door_.Leave(&request.visitor);
  unfinished_.erase(found);
}

void Engine::PublishEvents() {
  std::vector<Delivery> deliveries;
  std::vector<Answer> answers;
  while (TakeDeliveries(&deliveries, &answers)) {
    for (Delivery& delivery : deliveries) delivery.sink->OnToken(std::move(delivery.event));
    for (Answer& answer : answers) answer.done(std::move(answer.snapshot));
    deliveries.clear();
    answers.clear();
  }
}

bool Engine::TakeDeliveries(std::vector<Delivery>* deliveries, std::vector<Answer>* answers) {
  MutexLock lock(&mutex_);
  while (!steps_ended_ && deliveries_.empty() && answers_.empty()) {
    deliveries_arrived_.Wait(&mutex_);
  }
  if (deliveries_.empty() && answers_.empty()) {
    publisher_ended_ = true;
    stopped_.NotifyAll();
    return false;
  }
  deliveries->swap(deliveries_);
  answers->swap(answers_);
  deliveries_taken_.NotifyOne();
  return true;
}

}  // namespace tessera
