#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "scheduler/request.h"

namespace tessera {

// A generation that someone else may end.
class OpenCall {
 public:
  virtual ~OpenCall() = default;
  // Ends it with this status, unless it has ended. Any thread.
  virtual void Abort(const absl::Status& why) = 0;
};

// The generations that are open, under the names that clients know. Bounded by the engine's limit
// on unfinished requests. Thread-safe.
class CallRegistry {
 public:
  void Add(const std::string& request_id, RequestId id, std::weak_ptr<OpenCall> call)
      EXCLUDES_LOCK(mutex_);
  void Remove(RequestId id) EXCLUDES_LOCK(mutex_);

  std::shared_ptr<OpenCall> Find(const std::string& request_id) const EXCLUDES_LOCK(mutex_);
  // Empty: not open.
  std::string PublicName(RequestId id) const EXCLUDES_LOCK(mutex_);

 private:
  struct Entry {
    RequestId id = 0;
    std::weak_ptr<OpenCall> call;
  };

  mutable Mutex mutex_;
  std::unordered_map<std::string, Entry> calls_ GUARDED_BY(mutex_);
  std::unordered_map<RequestId, std::string> names_ GUARDED_BY(mutex_);
};

}  // namespace tessera
