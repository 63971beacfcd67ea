#include "server/call_registry.h"

#include <utility>

namespace tessera {

void CallRegistry::Add(const std::string& request_id, RequestId id, std::weak_ptr<OpenCall> call) {
  MutexLock lock(&mutex_);
  calls_.emplace(request_id, Entry{id, std::move(call)});
  names_.emplace(id, request_id);
}

void CallRegistry::Remove(RequestId id) {
  MutexLock lock(&mutex_);
  const auto name = names_.find(id);
  if (name == names_.end()) return;
  calls_.erase(name->second);
  names_.erase(name);
}

std::shared_ptr<OpenCall> CallRegistry::Find(const std::string& request_id) const {
  MutexLock lock(&mutex_);
  const auto call = calls_.find(request_id);
  return call == calls_.end() ? nullptr : call->second.call.lock();
}

std::string CallRegistry::PublicName(RequestId id) const {
  MutexLock lock(&mutex_);
  const auto name = names_.find(id);
  return name == names_.end() ? "" : name->second;
}

}  // namespace tessera
