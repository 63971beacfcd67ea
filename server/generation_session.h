#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "server/call_registry.h"
#include "server/generation_stream.h"
#include "server/serving_context.h"
#include "tessera/v1/generation.pb.h"

namespace tessera {

// What a call says of itself besides its message.
struct CallIdentity {
  std::string method;
  absl::StatusOr<Caller> caller = Caller();
  TraceContext trace;
  TimeNs deadline = kNoDeadline;  // on the engine's clock
};

// One generation as tessera.v1 sees it, from the request's check to its last log line; knows no
// gRPC. The streaming and the unary call are thin writers of its messages.
//
// Owned by its call, and by the registry's users while they abort it. Start comes next; then one
// thread at a time calls Next; Cancel and Abort may come from any thread.
class GenerationSession final : public OpenCall,
                                public std::enable_shared_from_this<GenerationSession> {
 public:
  GenerationSession(ServingContext* context, CallIdentity identity);
  ~GenerationSession() override;

  // Refuses a caller who is not known. Comes first.
  absl::Status CheckCaller();
  bool knows_caller() const { return identity_.caller.ok(); }

  // Checks and submits the request. Not OK: it was refused, and the session is over. On OK the
  // writer is called when there is something to take, maybe before Start returns.
  absl::Status Start(const v1::GenerateRequest& proto, std::shared_ptr<DeltaWriter> writer);

  // Instead of Start, for a message that cannot be read. Gives the status back.
  absl::Status Refuse(const absl::Status& status);

  // Ids, fingerprint, seeds and what the texts begin with. Once, after Start.
  v1::GenerateResponse FirstMessage() const;

  struct Message {
    v1::GenerateResponse proto;
    bool last = false;  // the call ends with status()
  };
  // Nothing: the writer will be called again.
  std::optional<Message> Next();

  // How the call ends. After the last message.
  absl::Status status() const EXCLUDES_LOCK(mutex_);

  void Cancel();  // the client is gone
  void Abort(const absl::Status& why) override EXCLUDES_LOCK(mutex_);

 private:
  absl::Status TakePlace();
  void LeavePlace();
  absl::Status RefuseFor(Rejection reason, const absl::Status& status);
  absl::Status AcquireTenant(Request* request);
  absl::Status CheckRates() const;
  absl::Status AcquireQuota(const Request& request);
  absl::Status RefuseForQuota(const absl::Status& status);
  std::string tenant_name() const { return identity_.caller.ok() ? identity_.caller->tenant : ""; }
  absl::Status Submit(Request request);
  void TakeIn(DeltaBatch batch);
  Message NextPromptScores();
  void NoteFinish(const Delta& delta);
  void ChargeCompletion(const DeltaBatch& batch);
  void RecordTrace(const SequenceReport& report, bool was_refused) const;
  void EndWith(const absl::Status& status) EXCLUDES_LOCK(mutex_);
  bool DeadlineHasPassed() const;
  void LogEnd() const;

  ServingContext* const context_;
  const CallIdentity identity_;
  const std::string request_id_;
  const RequestId id_;
  const TimeNs begun_;

  // Set by Start.
  TenantLease tenant_;
  QuotaLease quota_;
  std::shared_ptr<GenerationStream> stream_;
  SamplingParams sampling_;
  int num_sequences_ = 0;
  std::string echo_text_;

  bool has_place_ = false;  // among the open generations

  // Of the thread in Next.
  std::optional<Message> taken_;  // of the last batch; given out after the prompt's scores
  std::vector<std::vector<ScoredToken>> prompt_scores_;
  size_t num_scores_given_ = 0;
  SequenceReport report_;  // the first sequence's; completions and preemptions of all
  FinishReason finish_ = FinishReason::kNone;  // the first sequence's
  int64_t num_charged_tokens_ = 0;             // of the completion, to the tenant's quota

  mutable Mutex mutex_;
  absl::Status status_ GUARDED_BY(mutex_);  // the first that is not OK stays
};

}  // namespace tessera
