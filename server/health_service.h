#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace tessera {

// grpc.health.v1, for the daemon as a whole ("") and for each of its services. Our own, since
// gRPC's default service cannot be told apart by service while the daemon drains.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  static constexpr size_t kMaxWatches = 1024;
  static constexpr size_t kMaxRequestBytes = 1024;

  // All are NOT_SERVING at first.
  explicit HealthService(const std::vector<std::string>& services);
  ~HealthService() override;

  void SetServing(const std::string& service, bool serving) EXCLUDES_LOCK(mutex_);

  bool is_watched() const EXCLUDES_LOCK(mutex_);

  // Ends all watches, now and later, so that the server can shut down.
  void Shutdown() EXCLUDES_LOCK(mutex_);

 private:
  class WatchCall;
  using Request = grpc::health::v1::HealthCheckRequest;
  using Response = grpc::health::v1::HealthCheckResponse;

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context, const Request* request,
                                  Response* response) override;
  grpc::ServerWriteReactor<Response>* Watch(grpc::CallbackServerContext* context,
                                            const Request* request) override;
  // Not OK: there are too many watches, or the server shuts down.
  grpc::Status AddWatch(const Request& request, WatchCall* call) EXCLUDES_LOCK(mutex_);
  void RemoveWatch(WatchCall* call) EXCLUDES_LOCK(mutex_);

  mutable Mutex mutex_;
  std::map<std::string, Response::ServingStatus> statuses_ GUARDED_BY(mutex_);
  std::map<WatchCall*, std::string> watches_ GUARDED_BY(mutex_);  // and what each one watches
  bool shut_down_ GUARDED_BY(mutex_) = false;
};

}  // namespace tessera
