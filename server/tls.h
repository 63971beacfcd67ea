#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

struct TlsOptions {
  std::string certificate_path;  // PEM chain; empty: no TLS
  std::string key_path;          // PEM
  std::string client_ca_path;    // PEM; empty: clients need no certificate
};

// Plaintext, TLS, or TLS with client certificates. A file that has changed is read by the next
// handshake, so that a certificate can be replaced while the daemon runs; files that cannot be used
// together change nothing. The log tells of both. INVALID_ARGUMENT where they cannot be used now.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsOptions& options);

}  // namespace tessera
