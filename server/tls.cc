#include "server/tls.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/stat.h>

#include <array>
#include <fstream>
#include <iterator>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status.h"
#include "server/log.h"

namespace tessera {
namespace {

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
  // A key with a passphrase would ask for it on the terminal.
  SSL_CTX_set_default_passwd_cb(context.get(), [](char*, int, int, void*) { return 0; });
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

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Which file a path leads to (device, inode, size) and when it or its rights were changed; zeros
// for none.
using FileState = std::tuple<dev_t, ino_t, off_t, time_t, int64_t>;

FileState StateOf(const std::string& path) {
  struct stat found = {};
  if (stat(path.c_str(), &found) != 0) return {};
  return {found.st_dev, found.st_ino, found.st_size, found.st_ctim.tv_sec, found.st_ctim.tv_nsec};
}

// gRPC calls Fetch at the start and before each handshake.
class FileCredentials final : public grpc::ServerCredentials {
 public:
  explicit FileCredentials(TlsOptions options) : options_(std::move(options)) {
    const auto client_certificates =
        options_.client_ca_path.empty()
            ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
            : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
    credentials_ = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(client_certificates, &Fetch,
                                                                        this));
  }
  ~FileCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  using FileStates = std::array<FileState, 3>;

  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  static grpc_ssl_certificate_config_reload_status Fetch(
      void* self, grpc_ssl_server_certificate_config** config) {
    return static_cast<FileCredentials*>(self)->FetchIfChanged(config);
  }

  // A file that changes while it is read differs from what was noted before: the next handshake
  // reads it again.
  grpc_ssl_certificate_config_reload_status FetchIfChanged(
      grpc_ssl_server_certificate_config** config) EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    const FileStates states = {StateOf(options_.certificate_path), StateOf(options_.key_path),
                               StateOf(options_.client_ca_path)};
    if (states == last_states_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const bool is_first = last_states_ == FileStates();
    last_states_ = states;
    const absl::Status usable = CheckFiles(options_);
    if (!usable.ok()) {
      Log(LogLevel::kError, "certificates refused", {{"reason", std::string(usable.message())}});
      return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    }
    *config = ReadConfig();
    if (!is_first) Log(LogLevel::kInfo, "certificates reloaded");
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  grpc_ssl_server_certificate_config* ReadConfig() const {
    const std::string certificate = Contents(options_.certificate_path);
    const std::string key = Contents(options_.key_path);
    // gRPC 1.51 insists on authorities also where it asks clients for nothing.
    const std::string client_ca =
        options_.client_ca_path.empty() ? certificate : Contents(options_.client_ca_path);
    const grpc_ssl_pem_key_cert_pair pair = {key.c_str(), certificate.c_str()};
    return grpc_ssl_server_certificate_config_create(client_ca.c_str(), &pair, 1);
  }

  const TlsOptions options_;
  grpc_server_credentials* credentials_ = nullptr;  // asks us for what is in the files
  Mutex mutex_;
  FileStates last_states_ GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsOptions& options) {
  if (options.certificate_path.empty()) return grpc::InsecureServerCredentials();
  RETURN_IF_ERROR(CheckFiles(options));
  return std::make_shared<FileCredentials>(options);
}

}  // namespace tessera
