#pragma once

#include <string>

#include "base/mutex.h"
#include "scheduler/request.h"

namespace tessera {

// How busy the daemon is, at a moment.
struct CurrentLoad {
  double sequences = 0;  // that run or wait, as part of those that may run: above 1 some wait
  double kv_pages = 0;   // part of the pages that sequences hold
};

// Makes ORCA load reports, by which load balancers weigh replicas: an answer's trailer
// endpoint-load-metrics-bin. Thread-safe.
class LoadReporter {
 public:
  // The report as of an answer that ends now, serialised.
  std::string Report(const CurrentLoad& load, bool is_error, TimeNs now) EXCLUDES_LOCK(mutex_);

 private:
  // Events a second, forgotten with time.
  struct Rate {
    double per_second = 0;

    void Decay(double seconds);
    void Count();
  };

  Mutex mutex_;
  TimeNs last_ GUARDED_BY(mutex_) = 0;
  Rate answers_ GUARDED_BY(mutex_);
  Rate errors_ GUARDED_BY(mutex_);
};

}  // namespace tessera
