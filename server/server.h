#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/control_service.h"
#include "server/generation_service.h"
#include "server/grpc_listener.h"
#include "server/health_service.h"
#include "server/http_listener.h"
#include "server/model_service.h"
#include "server/options.h"
#include "server/serving_context.h"

namespace tessera {

// The daemon without its process: engine, services and listeners around one model. Made by main
// around the real model, by tests around a fake one. Start, Drain and the destructor belong to one
// thread.
class Server {
 public:
  struct Parts {
    const Tokenizer* tokenizer = nullptr;  // outlives the server
    Executor* executor = nullptr;          // outlives the server; used by its engine thread alone
    ServedModel model;
    std::function<void()> on_drain_request;  // a client asks for Drain; called once, must not block
  };

  // Serves from when this returns. Whatever is wrong with the set-up is a status.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options, Parts parts);
  ~Server();

  const HostPort& grpc_address() const { return grpc_.acceptor->address(); }
  const HostPort& metrics_address() const { return http_->address(); }

  // Reads the key file anew, if there is one. Not OK: what was read before stays in force.
  absl::Status Reload();

  // Not ready from now on; refuses new requests; lets open ones finish until the drain timeout,
  // then ends them with UNAVAILABLE; closes connections (GOAWAY). Returns when all is done.
  void Drain();

 private:
  Server(const ServerOptions& options, Parts parts);

  absl::Status StartEngine();
  absl::Status StartListeners();
  absl::Status StartPages();
  absl::Status StartServices();
  void RequestDrain(std::optional<double> timeout_seconds);
  HttpReply Readiness() const;

  const ServerOptions options_;
  const Parts parts_;
  std::atomic<double> drain_timeout_seconds_;
  std::atomic<bool> ready_{false};
  std::atomic<bool> drain_requested_{false};
  bool drained_ = false;

  Metrics metrics_;
  CallRegistry calls_;
  TenantTable tenants_;
  TenantQuotas quotas_;
  std::unique_ptr<Authenticator> authenticator_;
  LoadReporter load_reporter_;
  std::unique_ptr<Tracer> tracer_;
  const RequestParser parser_;
  std::unique_ptr<Engine> engine_;
  ServingContext serving_;

  GenerationService generation_service_;
  ModelService model_service_;
  ControlService control_service_;
  HealthService health_service_;
  GrpcListener grpc_;
  GrpcListener control_;  // none, or the control service alone
  std::unique_ptr<HttpListener> http_;
};

}  // namespace tessera
