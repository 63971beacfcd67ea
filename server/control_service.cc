#include "server/control_service.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/status_details.h"

namespace tessera {
namespace {

constexpr double kMaxDrainSeconds = 86400.0;

// The two enumerations are the same numbers.
static_assert(static_cast<int>(WaitReason::kTokenBudget) ==
              v1::SequenceState::WAIT_REASON_TOKEN_BUDGET);
static_assert(static_cast<int>(WaitReason::kSlowReader) ==
              v1::SequenceState::WAIT_REASON_SLOW_READER);

v1::SequenceState::State ToProto(SequencePhase phase) {
  switch (phase) {
    case SequencePhase::kWaiting:
      return v1::SequenceState::STATE_WAITING;
    case SequencePhase::kPrefill:
      return v1::SequenceState::STATE_PREFILL;
    case SequencePhase::kDecode:
      return v1::SequenceState::STATE_DECODE;
    case SequencePhase::kParked:
      return v1::SequenceState::STATE_PARKED;
    case SequencePhase::kPreempted:
      return v1::SequenceState::STATE_PREEMPTED;
  }
  return v1::SequenceState::STATE_UNSPECIFIED;
}

absl::Status UnknownRequest(const std::string& request_id) {
  return absl::NotFoundError(absl::StrCat("request_id: expected that of an open request, got \"",
                                          request_id.substr(0, 100), "\""));
}

grpc::ServerUnaryReactor* FinishedWith(const absl::Status& status,
                                       grpc::CallbackServerContext* context) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

double Seconds(TimeNs time) { return static_cast<double>(time) * 1e-9; }

}  // namespace

ControlService::ControlService(const ServingContext* serving, DrainRequester request_drain)
    : serving_(serving), request_drain_(std::move(request_drain)) {}

grpc::ServerUnaryReactor* ControlService::Abort(grpc::CallbackServerContext* context,
                                                const v1::AbortRequest* request,
                                                v1::AbortResponse*) {
  const std::shared_ptr<OpenCall> call = serving_->calls->Find(request->request_id());
  if (call == nullptr) return FinishedWith(UnknownRequest(request->request_id()), context);
  call->Abort(absl::AbortedError("the request was ended by an Abort call"));
  return FinishedWith(absl::OkStatus(), context);
}

grpc::ServerUnaryReactor* ControlService::Explain(grpc::CallbackServerContext* context,
                                                  const v1::ExplainRequest* request,
                                                  v1::ExplainResponse* response) {
  const std::string& wanted = request->request_id();
  if (request->has_request_id() && serving_->calls->Find(wanted) == nullptr) {
    return FinishedWith(UnknownRequest(wanted), context);
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status asked = serving_->engine->RequestSnapshot(
      [this, wanted, response, reactor](const std::shared_ptr<const SchedulerSnapshot>& snapshot) {
        FillExplanation(*snapshot, wanted, response);
        reactor->Finish(grpc::Status::OK);
      });
  if (!asked.ok()) reactor->Finish(ToGrpcStatus(asked));
  return reactor;
}

grpc::ServerUnaryReactor* ControlService::Drain(grpc::CallbackServerContext* context,
                                                const v1::DrainRequest* request,
                                                v1::DrainResponse* response) {
  std::optional<double> timeout_seconds;
  if (request->has_timeout_seconds()) {
    timeout_seconds = request->timeout_seconds();
    if (!(*timeout_seconds >= 0.0 && *timeout_seconds <= kMaxDrainSeconds)) {
      return FinishedWith(
          InvalidField("timeout_seconds", "0 to 86400", absl::StrCat(*timeout_seconds)), context);
    }
  }
  response->set_unfinished_requests(serving_->engine->num_unfinished_requests());
  request_drain_(timeout_seconds);
  return FinishedWith(absl::OkStatus(), context);
}

void ControlService::FillExplanation(const SchedulerSnapshot& snapshot,
                                     const std::string& wanted_request_id,
                                     v1::ExplainResponse* response) const {
  response->set_step(snapshot.step);
  response->set_age_seconds(Seconds(serving_->engine->Now() - snapshot.taken_at));
  response->set_num_waiting(snapshot.stats.num_waiting_requests);
  response->set_num_running(snapshot.stats.num_running_sequences);
  response->set_pages_total(snapshot.stats.num_pages);
  response->set_pages_used(snapshot.stats.num_pages_used);
  response->set_pages_cached(snapshot.stats.num_pages_cached);
  response->set_preemptions(snapshot.stats.num_preemptions);
  for (const SequenceSnapshot& sequence : snapshot.sequences) {
    const std::string request_id = serving_->calls->PublicName(sequence.request);
    if (!wanted_request_id.empty() && request_id != wanted_request_id) continue;
    v1::SequenceState* state = response->add_sequences();
    state->set_request_id(request_id);
    FillSequence(sequence, state);
  }
}

void ControlService::FillSequence(const SequenceSnapshot& sequence,
                                  v1::SequenceState* state) const {
  state->set_index(sequence.index);
  state->set_state(ToProto(sequence.phase));
  state->set_wait_reason(static_cast<v1::SequenceState::WaitReason>(sequence.wait_reason));
  state->set_prompt_tokens(sequence.prompt_tokens);
  state->set_computed_tokens(sequence.computed_tokens);
  state->set_output_tokens(sequence.output_tokens);
  state->set_pages(sequence.num_pages);
  state->set_preemptions(sequence.num_preemptions);
  state->set_priority(sequence.priority);
  if (serving_->authenticator->tells_tenants_apart()) {
    state->set_tenant(serving_->tenants->NameOf(sequence.tenant));
  }
  state->set_waited_seconds(Seconds(sequence.waited));
  state->set_position_in_queue(sequence.position_in_queue);
}

}  // namespace tessera
