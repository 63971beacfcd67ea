#include "server/generation_session.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/philox.h"
#include "base/status.h"
#include "server/log.h"
#include "server/random.h"
#include "server/response_builder.h"
#include "server/status_details.h"
#include "server/token_timer.h"

namespace tessera {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kMinRetryDelay{100};
constexpr milliseconds kMaxRetryDelay{60'000};
constexpr milliseconds kUnknownRetryDelay{1000};

// Keeps a long prompt's scores in messages of moderate size.
constexpr size_t kMaxScoreBytesPerMessage = size_t{512} * 1024;

// A queue that is full has room for one more when its head has begun to run: a small part of the
// time that its tail will wait.
milliseconds RetryDelayAfter(TimeNs predicted_wait, int64_t queue_length) {
  if (predicted_wait <= 0) return kUnknownRetryDelay;
  const milliseconds one_place{predicted_wait / std::max<int64_t>(queue_length, 1) / 1'000'000};
  return std::clamp(one_place, kMinRetryDelay, kMaxRetryDelay);
}

absl::Status QueueIsFull(const SubmitRefusal& refusal, int64_t queue_length) {
  return Overloaded(refusal.what,
                    absl::StrCat(refusal.what, ": expected at most ", refusal.limit,
                                 ", this would be number ", refusal.actual),
                    RetryDelayAfter(refusal.predicted_wait, queue_length));
}

// Attaches to the engine's refusal what lets programs act on it.
absl::Status Explained(const absl::Status& status, const SubmitRefusal& refusal) {
  switch (refusal.reason) {
    case RefusalReason::kTooManyRequests:
      return QueueIsFull(refusal, refusal.limit);
    case RefusalReason::kTooManyPromptTokens:
      return QueueIsFull(refusal, 1);
    case RefusalReason::kDraining:
      return Draining();
    case RefusalReason::kInvalid:
      return WithField("request", status);
    default:
      return status;
  }
}

Rejection ToRejection(RefusalReason reason) {
  switch (reason) {
    case RefusalReason::kTooManyRequests:
      return Rejection::kQueueRequests;
    case RefusalReason::kTooManyPromptTokens:
      return Rejection::kQueuePromptTokens;
    case RefusalReason::kDraining:
      return Rejection::kDraining;
    case RefusalReason::kDeadline:
      return Rejection::kDeadline;
    default:
      return Rejection::kInvalid;
  }
}

const char* Name(FinishReason finish) {
  switch (finish) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStopToken:
      return "stop_token";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kNonFinite:
      return "non_finite";
    case FinishReason::kNoTokenLeft:
      return "no_token_left";
    case FinishReason::kShutdown:
      return "shutdown";
  }
  return "unknown";
}

// How a call ends of which a sequence ended like this.
absl::Status ToStatus(FinishReason finish) {
  switch (finish) {
    case FinishReason::kCancelled:
      return absl::CancelledError("the client cancelled the call");
    case FinishReason::kDeadline:
      return absl::DeadlineExceededError(
          "the call's deadline passed before the answer was complete");
    case FinishReason::kNonFinite:
      return absl::InternalError(
          "the model's logits: expected finite numbers, got infinity or NaN");
    case FinishReason::kNoTokenLeft:
      return absl::FailedPreconditionError(
          "sampling: expected a token to choose from, got none after masks and logit_bias");
    case FinishReason::kShutdown:
      return absl::UnavailableError("the server stopped before the answer was complete");
    default:
      return absl::OkStatus();
  }
}

double Milliseconds(TimeNs from, TimeNs to) {
  return from == 0 || to == 0 ? 0.0 : static_cast<double>(to - from) * 1e-6;
}

}  // namespace

GenerationSession::GenerationSession(ServingContext* context, CallIdentity identity)
    : context_(context),
      identity_(std::move(identity)),
      request_id_(RandomRequestId()),
      id_(context->next_request_id.fetch_add(1)),
      begun_(context->engine->Now()) {}

GenerationSession::~GenerationSession() {
  context_->calls->Remove(id_);
  LeavePlace();
}

absl::Status GenerationSession::CheckCaller() {
  if (identity_.caller.ok()) return absl::OkStatus();
  return RefuseFor(Rejection::kUnauthenticated, identity_.caller.status());
}

absl::Status GenerationSession::Start(const v1::GenerateRequest& proto,
                                      std::shared_ptr<DeltaWriter> writer) {
  if (context_->engine->draining()) {  // before the work of reading a long prompt
    return RefuseFor(Rejection::kDraining, Draining());
  }
  if (const absl::Status status = CheckRates(); !status.ok()) return RefuseForQuota(status);
  if (const absl::Status status = TakePlace(); !status.ok()) {
    return RefuseFor(Rejection::kOpenGenerations, status);
  }
  absl::StatusOr<ParsedRequest> parsed = context_->parser->Parse(proto, RandomBits64() & kSeedMask);
  if (!parsed.ok()) return Refuse(parsed.status());
  if (const absl::Status status = AcquireTenant(&parsed->request); !status.ok()) {
    return RefuseFor(absl::IsInvalidArgument(status) ? Rejection::kInvalid : Rejection::kTenants,
                     status);
  }
  if (const absl::Status status = AcquireQuota(parsed->request); !status.ok()) {
    return RefuseForQuota(status);
  }
  parsed->request.id = id_;
  parsed->request.deadline = identity_.deadline;
  sampling_ = parsed->request.sampling;
  num_sequences_ = parsed->request.num_sequences;
  echo_text_ = std::move(parsed->echo_text);
  stream_ =
      std::make_shared<GenerationStream>(context_->engine, context_->tokenizer, id_, num_sequences_,
                                         std::move(parsed->text), std::move(writer));
  return Submit(std::move(parsed->request));
}

// Until the call is over. The engine bounds what it has not finished; this bounds what is finished
// and has not been read.
absl::Status GenerationSession::TakePlace() {
  has_place_ = true;
  const int num_open = context_->num_open_generations.fetch_add(1) + 1;
  if (num_open <= context_->max_open_generations) return absl::OkStatus();
  return Overloaded(
      "open generations",
      absl::StrCat("open generations: expected at most ", context_->max_open_generations,
                   ", this would be number ", num_open),
      kUnknownRetryDelay);
}

void GenerationSession::LeavePlace() {
  if (std::exchange(has_place_, false)) context_->num_open_generations.fetch_sub(1);
}

absl::Status GenerationSession::Refuse(const absl::Status& status) {
  return RefuseFor(Rejection::kInvalid, status);
}

absl::Status GenerationSession::RefuseFor(Rejection reason, const absl::Status& status) {
  context_->metrics->CountRejection(reason);
  LeavePlace();
  EndWith(status);
  // Others would let a flood fill up the tracer's queue.
  if (knows_caller() && !identity_.trace.parent_span_id.empty()) {
    RecordTrace({.arrived = begun_, .finished = context_->engine->Now()}, true);
  }
  Log(LogLevel::kInfo, "refused",
      {{"request_id", request_id_},
       {"trace_id", identity_.trace.trace_id},
       {"tenant", tenant_name().substr(0, TenantTable::kMaxNameBytes)},
       {"method", identity_.method},
       {"code", absl::StatusCodeToString(status.code())},
       {"reason", std::string(status.message())}});
  return status;
}

absl::Status GenerationSession::AcquireTenant(Request* request) {
  const std::string& name = identity_.caller->tenant;
  if (name.empty()) return absl::OkStatus();
  absl::StatusOr<TenantLease> lease = context_->tenants->Acquire(name);
  if (!lease.ok()) return lease.status();
  tenant_ = *std::move(lease);
  request->tenant = tenant_.id();
  request->cache_salt = XXH3_64bits(name.data(), name.size());
  return absl::OkStatus();
}

// Once more than AcquireQuota does: a tenant past its rates does not make us tokenize prompts.
absl::Status GenerationSession::CheckRates() const {
  if (!identity_.caller->limits.has_value()) return absl::OkStatus();
  return context_->quotas->CheckRates(identity_.caller->tenant, *identity_.caller->limits,
                                      context_->engine->Now());
}

absl::Status GenerationSession::RefuseForQuota(const absl::Status& status) {
  context_->metrics->CountTenantRefusal(tenant_name());
  return RefuseFor(Rejection::kQuota, status);
}

absl::Status GenerationSession::AcquireQuota(const Request& request) {
  if (!identity_.caller->limits.has_value()) return absl::OkStatus();
  absl::StatusOr<QuotaLease> lease =
      context_->quotas->Admit(identity_.caller->tenant, *identity_.caller->limits,
                              {.num_sequences = request.num_sequences,
                               .priority = request.priority,
                               .prompt_tokens = static_cast<int64_t>(request.prompt.size())},
                              context_->engine->Now());
  if (!lease.ok()) return lease.status();
  quota_ = *std::move(lease);
  return absl::OkStatus();
}

absl::Status GenerationSession::Submit(Request request) {
  context_->calls->Add(request_id_, id_, weak_from_this());
  Metrics* const metrics = context_->metrics;
  auto sink =
      std::make_shared<TokenTimer>(metrics, context_->engine->Now(), num_sequences_, stream_);
  const int max_tokens = request.max_tokens;
  SubmitRefusal refusal;
  absl::Status status = context_->engine->Submit(std::move(request), std::move(sink), &refusal);
  if (status.ok()) {
    metrics->CountAccepted(num_sequences_, max_tokens);
    return status;
  }
  context_->calls->Remove(id_);
  quota_.Refund();
  stream_ = nullptr;  // it holds the writer, and the writer us
  return RefuseFor(ToRejection(refusal.reason), Explained(status, refusal));
}

v1::GenerateResponse GenerationSession::FirstMessage() const {
  v1::GenerateResponse message;
  message.set_request_id(request_id_);
  message.set_fingerprint(context_->model.fingerprint);
  message.set_model(context_->model.name);
  for (int i = 0; i < num_sequences_; ++i) {
    v1::Output* output = message.add_outputs();
    output->set_index(i);
    output->set_seed(ForkSeed(sampling_.seed, i));
    output->set_text(echo_text_);
  }
  return message;
}

std::optional<GenerationSession::Message> GenerationSession::Next() {
  if (!taken_.has_value()) {
    std::optional<DeltaBatch> batch = stream_->TakeDeltas();
    if (!batch.has_value()) return std::nullopt;
    TakeIn(std::move(*batch));
  }
  if (num_scores_given_ < prompt_scores_.size()) return NextPromptScores();
  std::optional<Message> message = std::exchange(taken_, std::nullopt);
  if (message->last) quota_.EndSequences();
  return message;
}

void GenerationSession::TakeIn(DeltaBatch batch) {
  taken_ = Message{.proto = {}, .last = batch.last};
  for (Delta& delta : batch.deltas) {
    if (!delta.prompt_logprobs.empty()) prompt_scores_ = std::move(delta.prompt_logprobs);
    FillOutput(delta, *context_->tokenizer, taken_->proto.add_outputs());
    if (delta.finish != FinishReason::kNone) NoteFinish(delta);
  }
  ChargeCompletion(batch);
  if (!batch.last) return;
  context_->calls->Remove(id_);
  if (identity_.caller->limits.has_value()) {
    context_->metrics->CountTenantTokens(tenant_name(), report_.prompt_tokens,
                                         report_.completion_tokens);
  }
  RecordTrace(report_, false);
  LogEnd();
}

void GenerationSession::RecordTrace(const SequenceReport& report, bool was_refused) const {
  if (context_->tracer == nullptr) return;
  context_->tracer->Record({.context = identity_.trace,
                            .method = identity_.method,
                            .status = status(),
                            .num_sequences = num_sequences_,
                            .report = report,
                            .was_refused = was_refused});
}

// As tokens come, so that long answers are felt before they end; at the end what was computed and
// not given out, too.
void GenerationSession::ChargeCompletion(const DeltaBatch& batch) {
  int64_t num_tokens = 0;
  for (const Delta& delta : batch.deltas) {
    num_tokens += static_cast<int64_t>(delta.token_ids.size());
  }
  if (batch.last) num_tokens = report_.completion_tokens - num_charged_tokens_;
  quota_.ChargeCompletion(num_tokens);
  num_charged_tokens_ += num_tokens;
}

// Made only when they are asked for: as messages they take ten times the memory.
GenerationSession::Message GenerationSession::NextPromptScores() {
  Message message;
  // The first token follows nothing that could score it.
  if (num_scores_given_ == 0) message.proto.add_prompt_logprobs();
  const size_t max_bytes = std::min(kMaxScoreBytesPerMessage, context_->max_message_bytes / 2);
  for (size_t bytes = 0; bytes < max_bytes && num_scores_given_ < prompt_scores_.size();) {
    v1::TokenLogprobs* logprobs = message.proto.add_prompt_logprobs();
    FillLogprobs(prompt_scores_[num_scores_given_++], *context_->tokenizer, logprobs);
    bytes += logprobs->ByteSizeLong();
  }
  if (num_scores_given_ == prompt_scores_.size()) prompt_scores_.clear();
  return message;
}

void GenerationSession::NoteFinish(const Delta& delta) {
  const bool missed_deadline = delta.finish == FinishReason::kCancelled && DeadlineHasPassed();
  const FinishReason finish = missed_deadline ? FinishReason::kDeadline : delta.finish;
  context_->metrics->CountFinished(finish, delta.report);
  EndWith(ToStatus(finish));
  // A sequence that failed takes its siblings with it: half an answer is none.
  if (finish == FinishReason::kNonFinite || finish == FinishReason::kNoTokenLeft) stream_->Cancel();
  if (delta.index == 0) {
    finish_ = finish;
    const SequenceReport others = std::exchange(report_, delta.report);
    report_.completion_tokens += others.completion_tokens;
    report_.num_preemptions += others.num_preemptions;
  } else {
    report_.completion_tokens += delta.report.completion_tokens;
    report_.num_preemptions += delta.report.num_preemptions;
  }
}

absl::Status GenerationSession::status() const {
  MutexLock lock(&mutex_);
  return status_;
}

void GenerationSession::EndWith(const absl::Status& status) {
  MutexLock lock(&mutex_);
  status_.Update(status);
}

void GenerationSession::Cancel() {
  if (stream_ != nullptr) stream_->Cancel();
}

void GenerationSession::Abort(const absl::Status& why) {
  EndWith(why);
  Cancel();
}

bool GenerationSession::DeadlineHasPassed() const {
  return context_->engine->Now() >= identity_.deadline;
}

void GenerationSession::LogEnd() const {
  Log(LogLevel::kInfo, "done",
      {{"request_id", request_id_},
       {"trace_id", identity_.trace.trace_id},
       {"tenant", tenant_name()},
       {"method", identity_.method},
       {"code", absl::StatusCodeToString(status().code())},
       {"finish", Name(finish_)},
       {"n", int64_t{num_sequences_}},
       {"prompt_tokens", int64_t{report_.prompt_tokens}},
       {"cached_tokens", int64_t{report_.cached_tokens}},
       {"completion_tokens", int64_t{report_.completion_tokens}},
       {"preemptions", int64_t{report_.num_preemptions}},
       {"queue_ms", Milliseconds(report_.arrived, report_.first_scheduled)},
       {"first_token_ms", Milliseconds(report_.arrived, report_.first_token)},
       {"total_ms", Milliseconds(report_.arrived, report_.finished)}});
}

}  // namespace tessera
