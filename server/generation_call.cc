#include "server/generation_call.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "server/call_metadata.h"
#include "server/random.h"
#include "server/raw_message.h"
#include "server/response_builder.h"
#include "server/status_details.h"

namespace tessera {
namespace {

constexpr int64_t kLongestDeadlineSeconds = int64_t{100} * 365 * 24 * 3600;

// Clients may ask for centuries, which a time_point of nanoseconds does not hold.
TimeNs DeadlineOnEngineClock(const grpc::CallbackServerContext& context, const Engine& engine) {
  const gpr_timespec raw = context.raw_deadline();
  if (raw.tv_sec - gpr_now(raw.clock_type).tv_sec > kLongestDeadlineSeconds) return kNoDeadline;
  const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(
      context.deadline() - std::chrono::system_clock::now());
  return engine.Now() + left.count();
}

CallIdentity Identify(const char* method, const ServingContext& serving,
                      const grpc::CallbackServerContext& context) {
  CallIdentity identity;
  identity.method = method;
  identity.deadline = DeadlineOnEngineClock(context, *serving.engine);
  identity.trace = ParseTraceparent(FindMetadata(context, "traceparent").value_or(""));
  if (identity.trace.trace_id.empty() && serving.tracer != nullptr) {
    identity.trace = {.trace_id = RandomTraceId(), .parent_span_id = "", .is_sampled = true};
  }
  identity.caller = serving.authenticator->Identify(context);
  return identity;
}

void AddLoadReport(const ServingContext& serving, bool is_error,
                   grpc::CallbackServerContext* context) {
  const double max_running = serving.engine->limits().max_running;
  // The one that ends counts too: proxies take a report of 0 for a mistake.
  const int num_sequences = std::max(1, serving.metrics->num_unfinished_sequences());
  const CurrentLoad load = {.sequences = num_sequences / max_running,
                            .kv_pages = serving.metrics->kv_cache_usage()};
  context->AddTrailingMetadata(
      "endpoint-load-metrics-bin",
      serving.load_reporter->Report(load, is_error, serving.engine->Now()));
}

// Retrying clients obey the pushback before they look at any detail.
grpc::Status EndStatus(const absl::Status& status, const ServingContext& serving,
                       const GenerationSession& session, grpc::CallbackServerContext* context) {
  const bool reports_load = serving.load_reporter != nullptr && session.knows_caller();
  if (reports_load) AddLoadReport(serving, !status.ok(), context);
  if (const auto pushback = RetryPushback(status)) {
    context->AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(pushback->count()));
  }
  return ToGrpcStatus(status);
}

// gRPC would keep the request's bytes as long as the call is open.
absl::Status TakeMessage(const grpc::ByteBuffer& request, google::protobuf::Message* message) {
  absl::Status parsed = ParseMessage(request, message);
  const_cast<grpc::ByteBuffer&>(request).Clear();
  return parsed;
}

absl::Status StartSession(const grpc::ByteBuffer& request, GenerationSession* session,
                          std::shared_ptr<DeltaWriter> writer) {
  RETURN_IF_ERROR(session->CheckCaller());
  v1::GenerateRequest proto;
  const absl::Status parsed = TakeMessage(request, &proto);
  if (!parsed.ok()) return session->Refuse(parsed);
  return session->Start(proto, std::move(writer));
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamingCall::Start(
    ServingContext* serving, grpc::CallbackServerContext* context,
    const grpc::ByteBuffer& request) {
  auto call = std::make_shared<StreamingCall>(serving, context);
  call->self_ = call;
  const absl::Status started = StartSession(request, call->session_.get(), call);
  if (started.ok()) {
    call->writing_ = SerializeMessage(call->session_->FirstMessage());
    call->StartWrite(&call->writing_);
  } else {
    call->Finish(EndStatus(started, *serving, *call->session_, context));
  }
  return call.get();
}

StreamingCall::StreamingCall(ServingContext* serving, grpc::CallbackServerContext* context)
    : serving_(*serving),
      context_(context),
      session_(std::make_shared<GenerationSession>(
          serving, Identify("GenerateStream", *serving, *context))) {}

void StreamingCall::OnDeltasReady() { WriteNextOnceBegun(); }

void StreamingCall::OnWriteDone(bool ok) {
  if (!ok) session_->Cancel();
  WriteNextOnceBegun();
}

void StreamingCall::WriteNextOnceBegun() {
  if (num_beginnings_.load() < 2 && num_beginnings_.fetch_add(1) == 0) return;
  WriteNext();
}

void StreamingCall::WriteNext() {
  const std::optional<GenerationSession::Message> message = session_->Next();
  if (!message.has_value()) return;
  writing_ = SerializeMessage(message->proto);
  if (message->last) {
    StartWriteAndFinish(&writing_, grpc::WriteOptions(),
                        EndStatus(session_->status(), serving_, *session_, context_));
  } else {
    StartWrite(&writing_);
  }
}

void StreamingCall::OnCancel() { session_->Cancel(); }

void StreamingCall::OnDone() { const std::shared_ptr<StreamingCall> last = std::move(self_); }

grpc::ServerUnaryReactor* UnaryCall::Start(ServingContext* serving,
                                           grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer& request,
                                           grpc::ByteBuffer* response) {
  auto call = std::make_shared<UnaryCall>(serving, context, response);
  call->self_ = call;
  const absl::Status started = StartSession(request, call->session_.get(), call);
  if (started.ok()) {
    call->sum_ = call->session_->FirstMessage();
    call->sum_bytes_ = call->sum_.ByteSizeLong();
    call->CollectOnceBegun();
  } else {
    call->Finish(EndStatus(started, *serving, *call->session_, context));
  }
  return call.get();
}

UnaryCall::UnaryCall(ServingContext* serving, grpc::CallbackServerContext* context,
                     grpc::ByteBuffer* response)
    : serving_(*serving),
      context_(context),
      response_(response),
      session_(
          std::make_shared<GenerationSession>(serving, Identify("Generate", *serving, *context))) {}

void UnaryCall::OnDeltasReady() { CollectOnceBegun(); }

void UnaryCall::CollectOnceBegun() {
  if (num_beginnings_.load() < 2 && num_beginnings_.fetch_add(1) == 0) return;
  while (std::optional<GenerationSession::Message> message = session_->Next()) {
    const bool last = message->last;
    Add(std::move(message->proto));
    if (!last) continue;
    const absl::Status status = session_->status();
    if (status.ok()) *response_ = SerializeMessage(sum_);
    Finish(EndStatus(status, serving_, *session_, context_));
    return;
  }
}

void UnaryCall::Add(v1::GenerateResponse&& message) {
  sum_bytes_ += message.ByteSizeLong();
  if (sum_bytes_ <= serving_.max_message_bytes) {
    MergeResponse(std::move(message), &sum_);
    return;
  }
  session_->Abort(absl::ResourceExhaustedError(
      absl::StrCat("the answer: expected at most ", serving_.max_message_bytes,
                   " bytes (max-message-bytes), got more; GenerateStream has no such limit")));
}

void UnaryCall::OnCancel() { session_->Cancel(); }

void UnaryCall::OnDone() { const std::shared_ptr<UnaryCall> last = std::move(self_); }

}  // namespace tessera
