#include "scheduler/queue_door.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"

namespace tessera {
namespace {

double Seconds(TimeNs duration) { return static_cast<double>(duration) * 1e-9; }

}  // namespace

absl::Status QueueDoor::Check(const Visitor& visitor, TimeNs deadline, TimeNs now,
                              SubmitRefusal* refusal) const {
  refusal->predicted_wait = PredictWait(visitor.priority);
  RETURN_IF_ERROR(CheckTime(visitor, deadline, now, refusal));
  return CheckRoom(visitor, refusal);
}

absl::Status QueueDoor::CheckTime(const Visitor& visitor, TimeNs deadline, TimeNs now,
                                  SubmitRefusal* refusal) const {
  if (deadline == kNoDeadline) return absl::OkStatus();
  const bool passed = deadline <= now;
  if (!passed && deadline - now > refusal->predicted_wait) return absl::OkStatus();
  refusal->reason = RefusalReason::kDeadline;
  if (passed) {
    return absl::DeadlineExceededError(absl::StrFormat(
        "deadline: passed %.3f s before the request was queued", Seconds(now - deadline)));
  }
  return absl::DeadlineExceededError(absl::StrFormat(
      "deadline: in %.3f s, but a request of priority %d is predicted to wait %.3f s",
      Seconds(deadline - now), visitor.priority, Seconds(refusal->predicted_wait)));
}

absl::Status QueueDoor::CheckRoom(const Visitor& visitor, SubmitRefusal* refusal) const {
  const auto refuse = [refusal](RefusalReason reason, int64_t limit, int64_t actual,
                                const char* what) {
    refusal->reason = reason;
    refusal->what = what;
    refusal->limit = limit;
    refusal->actual = actual;
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the queue is full: at most %d %s, with this request %d", limit, what, actual));
  };
  if (num_waiting_ >= limits_.max_waiting_requests) {
    return refuse(RefusalReason::kTooManyRequests, limits_.max_waiting_requests, num_waiting_ + 1,
                  "waiting requests");
  }
  if (num_unfinished_ >= limits_.max_unfinished_requests) {
    return refuse(RefusalReason::kTooManyRequests, limits_.max_unfinished_requests,
                  num_unfinished_ + 1, "unfinished requests");
  }
  const int64_t prompt_tokens = waiting_prompt_tokens_ + visitor.prompt_tokens;
  if (num_waiting_ > 0 && prompt_tokens > limits_.max_waiting_prompt_tokens) {
    return refuse(RefusalReason::kTooManyPromptTokens, limits_.max_waiting_prompt_tokens,
                  prompt_tokens, "waiting prompt tokens");
  }
  return absl::OkStatus();
}

void QueueDoor::Enter(const Visitor& visitor) {
  CHECK(visitor.waiting);
  ++num_unfinished_;
  ++num_waiting_;
  waiting_prompt_tokens_ += visitor.prompt_tokens;
  waiting_by_priority_[visitor.priority] += visitor.prompt_tokens;
}

void QueueDoor::Start(Visitor* visitor) {
  if (!std::exchange(visitor->waiting, false)) return;
  --num_waiting_;
  waiting_prompt_tokens_ -= visitor->prompt_tokens;
  const auto band = waiting_by_priority_.find(visitor->priority);
  band->second -= visitor->prompt_tokens;
  if (band->second == 0) waiting_by_priority_.erase(band);
}

void QueueDoor::Leave(Visitor* visitor) {
  Start(visitor);
  --num_unfinished_;
}

void QueueDoor::ObserveBacklog(TimeNs duration, int64_t started_prompt_tokens) {
  if (current_.duration >= kWindow) previous_ = std::exchange(current_, Service{});
  current_.duration += duration;
  current_.prompt_tokens += started_prompt_tokens;
}

TimeNs QueueDoor::PredictWait(int priority) const {
  const TimeNs duration = current_.duration + previous_.duration;
  const int64_t served = current_.prompt_tokens + previous_.prompt_tokens;
  if (duration < kMinEvidence || served == 0) return 0;
  int64_t ahead = 0;
  for (const auto& [band, prompt_tokens] : waiting_by_priority_) {
    if (band <= priority) ahead += prompt_tokens;
  }
  return static_cast<TimeNs>(static_cast<double>(ahead) / static_cast<double>(served) *
                             static_cast<double>(duration));
}

}  // namespace tessera
