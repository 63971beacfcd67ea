#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "scheduler/request.h"
#include "server/call_metadata.h"

namespace opentelemetry::proto::trace::v1 {
class Span;
}

namespace tessera {

// A request that has ended, as its trace shows it. Times are the engine's.
struct RequestTrace {
  TraceContext context;
  std::string method;
  absl::Status status;
  int num_sequences = 1;
  SequenceReport report;
  bool was_refused = false;  // at the door: the call is all there is
};

// Exports spans over OTLP/gRPC (opentelemetry.io/docs/specs/otlp), four a request: the call, and in
// it queue, prefill and decode as far as it came. Spans wait in a bounded queue for a thread of
// their own; what the collector does not take is dropped. Thread-safe.
class Tracer {
 public:
  struct Options {
    std::string endpoint;  // HOST:PORT, plaintext
    std::string model;
    std::string version;
  };

  explicit Tracer(const Options& options);
  ~Tracer();  // exports what is queued, within a second or two
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Nothing for a request whose caller does not want it sampled.
  void Record(const RequestTrace& trace) EXCLUDES_LOCK(mutex_);

 private:
  class Exporter;
  using Span = opentelemetry::proto::trace::v1::Span;

  void AddSpan(Span span) REQUIRES_LOCK(mutex_);
  uint64_t UnixNanoseconds(TimeNs time) const;
  void ExportUntilStopped() EXCLUDES_LOCK(mutex_);
  std::deque<Span> WaitForSpans(bool* stopping, int64_t* num_dropped) EXCLUDES_LOCK(mutex_);

  const std::unique_ptr<Exporter> exporter_;
  const int64_t unix_offset_;  // what the engine's clock lacks to Unix time, ns
  Mutex mutex_;
  CondVar spans_arrived_;
  std::deque<Span> spans_ GUARDED_BY(mutex_);
  int64_t num_dropped_ GUARDED_BY(mutex_) = 0;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tessera
