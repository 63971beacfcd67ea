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

// Plaintext, TLS, or TLS with client certificates. The files are read again every few seconds, so
// that a certificate can be replaced while the daemon runs; a pair that does not match is ignored
// until it does. INVALID_ARGUMENT where the files cannot be used now.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsOptions& options);

}  // namespace tessera
