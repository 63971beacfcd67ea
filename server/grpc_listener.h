#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/connection_acceptor.h"
#include "server/host_port.h"

namespace tessera {

struct GrpcListenerOptions {
  std::shared_ptr<grpc::ServerCredentials> credentials;
  int max_message_bytes = 0;
  int max_connection_idle_seconds = 0;
  int max_connection_age_seconds = 0;  // 0: none
  bool reflection = true;
};

// A gRPC server and what accepts its connections.
struct GrpcListener {
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<ConnectionAcceptor> acceptor;  // null: gRPC accepts for itself

  // Takes no new connections or calls, and ends those that are open after `flush_time`.
  void Shutdown(std::chrono::seconds flush_time);
};

// Serves these services, which outlive the server, to at most max_connections clients. UNAVAILABLE
// where the address cannot be listened on.
absl::StatusOr<GrpcListener> StartGrpcListener(const HostPort& listen, int max_connections,
                                               const GrpcListenerOptions& options,
                                               const std::vector<grpc::Service*>& services);

// The same where only trusted programs come: "HOST:PORT" or "unix:PATH", plaintext, no limit.
absl::StatusOr<GrpcListener> StartControlListener(const std::string& address,
                                                  const GrpcListenerOptions& options,
                                                  const std::vector<grpc::Service*>& services);

}  // namespace tessera
