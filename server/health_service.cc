#include "server/health_service.h"

#include "absl/strings/str_cat.h"

namespace tessera {

using grpc::health::v1::HealthCheckResponse;

// One Watch: sends the latest status, one write at a time. Statuses that change during a write are
// merged. Deletes itself when gRPC is done with it.
class HealthService::WatchCall final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  WatchCall(HealthService* service, const HealthService::Request& request) : service_(service) {
    const grpc::Status added = service->AddWatch(request, this);
    if (!added.ok()) End(added);
  }

  void Send(HealthCheckResponse::ServingStatus status) EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    latest_ = status;
    WriteIfNew();
  }

  void End(const grpc::Status& status) EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
    Finish(status);
  }

  void OnWriteDone(bool ok) override EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    write_in_flight_ = false;
    if (ok) WriteIfNew();
  }
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override {
    service_->RemoveWatch(this);
    delete this;
  }

 private:
  void WriteIfNew() REQUIRES_LOCK(mutex_) {
    if (write_in_flight_ || ended_ || (sent_any_ && writing_.status() == latest_)) return;
    writing_.set_status(latest_);
    sent_any_ = true;
    write_in_flight_ = true;
    StartWrite(&writing_);
  }

  HealthService* const service_;
  Mutex mutex_;
  HealthCheckResponse::ServingStatus latest_ GUARDED_BY(mutex_) = HealthCheckResponse::UNKNOWN;
  HealthCheckResponse writing_ GUARDED_BY(mutex_);  // gRPC's while a write is in flight
  bool sent_any_ GUARDED_BY(mutex_) = false;
  bool write_in_flight_ GUARDED_BY(mutex_) = false;
  bool ended_ GUARDED_BY(mutex_) = false;
};

HealthService::HealthService(const std::vector<std::string>& services) {
  statuses_[""] = Response::NOT_SERVING;
  for (const std::string& service : services) statuses_[service] = Response::NOT_SERVING;
}

HealthService::~HealthService() = default;

void HealthService::SetServing(const std::string& service, bool serving) {
  MutexLock lock(&mutex_);
  const Response::ServingStatus status = serving ? Response::SERVING : Response::NOT_SERVING;
  statuses_[service] = status;
  for (const auto& [call, watched] : watches_) {
    if (watched == service) call->Send(status);
  }
}

bool HealthService::is_watched() const {
  MutexLock lock(&mutex_);
  return !watches_.empty();
}

void HealthService::Shutdown() {
  MutexLock lock(&mutex_);
  shut_down_ = true;
  for (const auto& [call, watched] : watches_) {
    call->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is shutting down"));
  }
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const Request* request, Response* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  MutexLock lock(&mutex_);
  const auto status = statuses_.find(request->service());
  if (status == statuses_.end()) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "unknown service"));
  } else {
    response->set_status(status->second);
    reactor->Finish(grpc::Status::OK);
  }
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(grpc::CallbackServerContext*,
                                                                    const Request* request) {
  return new WatchCall(this, *request);
}

// gRPC keeps the request as long as the call is open, and anybody may open one.
grpc::Status HealthService::AddWatch(const Request& request, WatchCall* call) {
  if (const size_t size = request.ByteSizeLong(); size > kMaxRequestBytes) {
    return {grpc::StatusCode::INVALID_ARGUMENT,
            absl::StrCat("request: expected at most ", kMaxRequestBytes, " bytes, got ", size)};
  }
  MutexLock lock(&mutex_);
  if (shut_down_) return {grpc::StatusCode::UNAVAILABLE, "the server is shutting down"};
  if (watches_.size() >= kMaxWatches) {
    return {grpc::StatusCode::RESOURCE_EXHAUSTED,
            absl::StrCat("health watches: expected at most ", kMaxWatches,
                         ", this would be number ", watches_.size() + 1)};
  }
  watches_.emplace(call, request.service());
  const auto status = statuses_.find(request.service());
  call->Send(status == statuses_.end() ? Response::SERVICE_UNKNOWN : status->second);
  return grpc::Status::OK;
}

void HealthService::RemoveWatch(WatchCall* call) {
  MutexLock lock(&mutex_);
  watches_.erase(call);
}

}  // namespace tessera
