#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "server/host_port.h"

namespace tessera {

struct GrpcListenerOptions {
  HostPort listen;
  int max_message_bytes = 0;
  bool reflection = true;
};

struct GrpcListener {
  std::unique_ptr<grpc::Server> server;
  HostPort address;  // with the port that was given out
};

// Serves these services, which outlive the server. UNAVAILABLE where the address cannot be listened
// on.
absl::StatusOr<GrpcListener> StartGrpcListener(const GrpcListenerOptions& options,
                                               const std::vector<grpc::Service*>& services);

}  // namespace tessera
