#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/mutex.h"
#include "scheduler/clock.h"

namespace tessera {

// Stands still until a test moves it, and wakes whoever waits for the time it then is.
class ManualClock final : public Clock {
 public:
  TimeNs Now() const override { return now_; }

  void WaitUntil(CondVar* condition, Mutex* mutex, TimeNs time) override REQUIRES_LOCK(mutex) {
    const Sleeper sleeper = {condition, mutex};
    {
      MutexLock lock(&mutex_);
      sleepers_.push_back(sleeper);
      ++num_sleeps_;
      slept_.NotifyAll();
    }
    if (Now() < time) condition->Wait(mutex);
    MutexLock lock(&mutex_);
    sleepers_.erase(std::find(sleepers_.begin(), sleepers_.end(), sleeper));
  }

  // REQUIRES: what sleeps now is not destroyed meanwhile.
  void Advance(TimeNs duration) EXCLUDES_LOCK(mutex_) {
    now_ += duration;
    std::vector<Sleeper> sleepers;
    {
      MutexLock lock(&mutex_);
      sleepers = sleepers_;
    }
    for (const Sleeper& sleeper : sleepers) {
      // Under its mutex: else the wake could fall between its look at the clock and its wait.
      MutexLock lock(sleeper.mutex);
      sleeper.condition->NotifyAll();
    }
  }

  // Blocks until something has gone to sleep so many times since construction.
  void AwaitSleeps(int num_sleeps) EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    while (num_sleeps_ < num_sleeps) slept_.Wait(&mutex_);
  }
  int num_sleeps() const EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    return num_sleeps_;
  }

 private:
  struct Sleeper {
    CondVar* condition = nullptr;
    Mutex* mutex = nullptr;
    bool operator==(const Sleeper&) const = default;
  };

  std::atomic<TimeNs> now_{1'000'000'000};
  mutable Mutex mutex_;
  CondVar slept_;
  std::vector<Sleeper> sleepers_ GUARDED_BY(mutex_);
  int num_sleeps_ GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera
