#include "server/tls.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tessera {
namespace {

constexpr unsigned kReloadSeconds = 5;

absl::Status Unusable(const char* option, const std::string& path, const char* expected) {
  char reason[256];
  ERR_error_string_n(ERR_get_error(), reason, sizeof reason);
  ERR_clear_error();
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": expected ", expected, ", got ", path, " (", reason, ")"));
}

// gRPC itself would start with files it cannot use, and refuse every handshake.
absl::Status CheckFiles(const TlsOptions& options) {
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context(SSL_CTX_new(TLS_server_method()),
                                                             &SSL_CTX_free);
  if (SSL_CTX_use_certificate_chain_file(context.get(), options.certificate_path.c_str()) != 1) {
    return Unusable("tls-cert", options.certificate_path, "a PEM certificate chain");
  }
  if (SSL_CTX_use_PrivateKey_file(context.get(), options.key_path.c_str(), SSL_FILETYPE_PEM) != 1) {
    return Unusable("tls-key", options.key_path, "the certificate's private key in PEM");
  }
  if (options.client_ca_path.empty()) return absl::OkStatus();
  if (SSL_CTX_load_verify_locations(context.get(), options.client_ca_path.c_str(), nullptr) != 1) {
    return Unusable("tls-client-ca", options.client_ca_path, "PEM certificates");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsOptions& options) {
  if (options.certificate_path.empty()) return grpc::InsecureServerCredentials();
  RETURN_IF_ERROR(CheckFiles(options));
  const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      options.key_path, options.certificate_path, options.client_ca_path, kReloadSeconds);
  grpc::experimental::TlsServerCredentialsOptions tls(provider);
  tls.watch_identity_key_cert_pairs();
  if (!options.client_ca_path.empty()) {
    tls.watch_root_certs();
    tls.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(tls);
}

}  // namespace tessera
