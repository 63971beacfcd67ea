#pragma once

#include <grpcpp/server_builder.h>

#include <atomic>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "server/host_port.h"

namespace tessera {

// Accepts TCP connections for a gRPC server and hands them over, so that there is a limit to them:
// gRPC 1.51 has none, and its own listener never accepts again once the process has run out of file
// descriptors. A connection past the limit is closed at once.
class ConnectionAcceptor {
 public:
  // Listens; nothing is accepted yet. UNAVAILABLE where the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<ConnectionAcceptor>> Listen(const HostPort& address,
                                                                    int max_connections);
  ~ConnectionAcceptor();
  ConnectionAcceptor(const ConnectionAcceptor&) = delete;
  ConnectionAcceptor& operator=(const ConnectionAcceptor&) = delete;

  const HostPort& address() const { return address_; }  // with the port that was given out

  // Accepts from now on. The server has started; after Stop connections are refused.
  void Start(std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> server);
  void Stop();

 private:
  ConnectionAcceptor(int listen_fd, const HostPort& address, int max_connections);

  void AcceptUntilStopped();
  void AcceptAll();

  int listen_fd_;      // -1 once stopped; the thread's while it runs
  const int stop_fd_;  // readable once it is time to stop
  const HostPort address_;
  // The system gives a new connection the lowest descriptor that is free, so one that is not below
  // this has at least max_connections before it.
  const int fd_limit_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> server_;
  std::thread thread_;
};

}  // namespace tessera
