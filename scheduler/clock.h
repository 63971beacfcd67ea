#pragma once

#include "base/mutex.h"
#include "scheduler/request.h"

namespace tessera {

// The engine's only source of time, so that tests can hold it still. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  virtual TimeNs Now() const = 0;

  // Returns when `condition` is notified, when Now() >= time, or spuriously: loop on the condition.
  virtual void WaitUntil(CondVar* condition, Mutex* mutex, TimeNs time) REQUIRES_LOCK(mutex) = 0;
};

// std::chrono::steady_clock; lives as long as the process.
Clock* SteadyClock();

}  // namespace tessera
