#include "scheduler/queue_door.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using Visitor = QueueDoor::Visitor;

constexpr TimeNs kSecond = 1'000'000'000;

QueueDoor MakeDoor() {
  return QueueDoor(
      {.max_waiting_requests = 3, .max_waiting_prompt_tokens = 1000, .max_unfinished_requests = 5});
}

Visitor MakeVisitor(int prompt_tokens, int priority = 0) {
  return {.priority = priority, .prompt_tokens = prompt_tokens};
}

absl::Status Check(const QueueDoor& door, const Visitor& visitor, SubmitRefusal* refusal,
                   TimeNs deadline = kNoDeadline) {
  *refusal = {};
  return door.Check(visitor, deadline, 100 * kSecond, refusal);
}

TEST(QueueDoorTest, RefusesPastTheWaitingRequests) {
  QueueDoor door = MakeDoor();
  SubmitRefusal refusal;
  std::vector<Visitor> waiting(3, MakeVisitor(10));
  for (const Visitor& visitor : waiting) {
    EXPECT_TRUE(Check(door, visitor, &refusal).ok());
    door.Enter(visitor);
  }
  const absl::Status status = Check(door, MakeVisitor(10), &refusal);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 3 waiting requests"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("with this request 4"));
  EXPECT_EQ(refusal.reason, RefusalReason::kTooManyRequests);
  EXPECT_EQ(refusal.limit, 3);
  EXPECT_EQ(refusal.actual, 4);

  door.Start(&waiting[0]);
  EXPECT_TRUE(Check(door, MakeVisitor(10), &refusal).ok());
  EXPECT_EQ(refusal.reason, RefusalReason::kNone);
}

TEST(QueueDoorTest, RefusesPastTheWaitingPromptTokens) {
  QueueDoor door = MakeDoor();
  SubmitRefusal refusal;
  Visitor first = MakeVisitor(700);
  door.Enter(first);
  EXPECT_TRUE(Check(door, MakeVisitor(300), &refusal).ok());
  EXPECT_EQ(Check(door, MakeVisitor(301), &refusal).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refusal.reason, RefusalReason::kTooManyPromptTokens);
  EXPECT_EQ(refusal.limit, 1000);
  EXPECT_EQ(refusal.actual, 1001);

  door.Leave(&first);
  EXPECT_TRUE(Check(door, MakeVisitor(5000), &refusal).ok()) << "alone, it may enter";
}

TEST(QueueDoorTest, RefusesPastTheUnfinishedRequests) {
  QueueDoor door = MakeDoor();
  SubmitRefusal refusal;
  std::vector<Visitor> started(5, MakeVisitor(10));
  for (Visitor& visitor : started) {
    EXPECT_TRUE(Check(door, visitor, &refusal).ok());
    door.Enter(visitor);
    door.Start(&visitor);
  }
  EXPECT_EQ(door.num_waiting(), 0);
  const absl::Status status = Check(door, MakeVisitor(10), &refusal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 5 unfinished requests"));
  door.Leave(&started[2]);
  EXPECT_TRUE(Check(door, MakeVisitor(10), &refusal).ok());
}

TEST(QueueDoorTest, CountsComeBackToNothing) {
  QueueDoor door = MakeDoor();
  Visitor cancelled_while_waiting = MakeVisitor(10, 3);
  Visitor ran = MakeVisitor(20, -1);
  door.Enter(cancelled_while_waiting);
  door.Enter(ran);
  EXPECT_EQ(door.waiting_prompt_tokens(), 30);
  door.Start(&ran);
  door.Start(&ran);
  door.Leave(&ran);
  door.Leave(&cancelled_while_waiting);
  EXPECT_EQ(door.num_waiting(), 0);
  EXPECT_EQ(door.waiting_prompt_tokens(), 0);
}

TEST(QueueDoorTest, PredictsFromTheRateAtWhichTheQueueMoved) {
  QueueDoor door = MakeDoor();
  door.Enter(MakeVisitor(600));
  EXPECT_EQ(door.PredictWait(0), 0) << "nothing seen yet";
  door.ObserveBacklog(kSecond / 4, 50);
  EXPECT_EQ(door.PredictWait(0), 0) << "a quarter of a second is too little to judge by";
  door.ObserveBacklog(kSecond * 3 / 4, 150);
  EXPECT_EQ(door.PredictWait(0), 3 * kSecond) << "600 tokens at 200 a second";
}

TEST(QueueDoorTest, OnlyEquallyOrMoreUrgentRequestsAreAhead) {
  QueueDoor door = MakeDoor();
  door.ObserveBacklog(kSecond, 100);
  door.Enter(MakeVisitor(100, -1));
  door.Enter(MakeVisitor(200, 0));
  door.Enter(MakeVisitor(400, 5));
  EXPECT_EQ(door.PredictWait(-2), 0);
  EXPECT_EQ(door.PredictWait(-1), 1 * kSecond);
  EXPECT_EQ(door.PredictWait(4), 3 * kSecond);
  EXPECT_EQ(door.PredictWait(5), 7 * kSecond);
}

TEST(QueueDoorTest, ForgetsOldRates) {
  QueueDoor door = MakeDoor();
  door.Enter(MakeVisitor(1000));
  for (int i = 0; i < 10; ++i) door.ObserveBacklog(kSecond, 1);
  EXPECT_EQ(door.PredictWait(0), 1000 * kSecond);
  for (int i = 0; i < 20; ++i) door.ObserveBacklog(kSecond, 1000);
  EXPECT_EQ(door.PredictWait(0), kSecond);
}

TEST(QueueDoorTest, RefusesADeadlineThatTheQueueCannotMeet) {
  QueueDoor door = MakeDoor();
  door.ObserveBacklog(kSecond, 100);
  door.Enter(MakeVisitor(500));
  SubmitRefusal refusal;
  const absl::Status late = Check(door, MakeVisitor(10), &refusal, 104 * kSecond);
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.message()), HasSubstr("in 4.000 s"));
  EXPECT_THAT(std::string(late.message()), HasSubstr("predicted to wait 5.000 s"));
  EXPECT_EQ(refusal.reason, RefusalReason::kDeadline);
  EXPECT_EQ(refusal.predicted_wait, 5 * kSecond);

  EXPECT_TRUE(Check(door, MakeVisitor(10), &refusal, 106 * kSecond).ok());
  EXPECT_TRUE(Check(door, MakeVisitor(10, -1), &refusal, 101 * kSecond).ok());
}

TEST(QueueDoorTest, RefusesADeadlineThatHasPassed) {
  const QueueDoor door = MakeDoor();
  SubmitRefusal refusal;
  const absl::Status status = Check(door, MakeVisitor(10), &refusal, 98 * kSecond);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("passed 2.000 s before"));
  EXPECT_EQ(Check(door, MakeVisitor(10), &refusal, 100 * kSecond).code(),
            absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace tessera
