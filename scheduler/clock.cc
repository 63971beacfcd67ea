#include "scheduler/clock.h"

#include <chrono>

namespace tessera {
namespace {

class StdSteadyClock final : public Clock {
 public:
  TimeNs Now() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  void WaitUntil(CondVar* condition, Mutex* mutex, TimeNs time) override REQUIRES_LOCK(mutex) {
    if (time == kNoDeadline) {
      condition->Wait(mutex);
    } else {
      condition->WaitUntil(mutex,
                           std::chrono::steady_clock::time_point(std::chrono::nanoseconds(time)));
    }
  }
};

}  // namespace

Clock* SteadyClock() {
  static StdSteadyClock clock;
  return &clock;
}

}  // namespace tessera
