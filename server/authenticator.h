#pragma once

#include <grpcpp/server_context.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "server/api_keys.h"

namespace tessera {

// Who makes a call.
struct Caller {
  std::string tenant;                  // empty: the one tenant there is
  std::optional<TenantLimits> limits;  // with keys
};

// Says who makes a call: with a key file, by the key in "authorization: Bearer KEY"; else whoever
// the trusted metadata names. Thread-safe.
class Authenticator {
 public:
  struct Options {
    std::string api_keys_path;        // empty: no keys, everybody may call
    std::string tenant_metadata_key;  // empty: believe no metadata
  };

  static absl::StatusOr<std::unique_ptr<Authenticator>> Create(const Options& options);

  bool has_keys() const { return !options_.api_keys_path.empty(); }
  bool tells_tenants_apart() const { return has_keys() || !options_.tenant_metadata_key.empty(); }

  // UNAUTHENTICATED without a key that is known; PERMISSION_DENIED where the metadata names another
  // tenant than the key's.
  absl::StatusOr<Caller> Identify(const grpc::CallbackServerContext& context) const
      EXCLUDES_LOCK(mutex_);

  // Reads the key file anew. Not OK: the keys stay what they were.
  absl::Status Reload() EXCLUDES_LOCK(mutex_);

 private:
  explicit Authenticator(const Options& options) : options_(options) {}

  absl::StatusOr<Caller> IdentifyByKey(const grpc::CallbackServerContext& context) const;
  std::shared_ptr<const ApiKeys> keys() const EXCLUDES_LOCK(mutex_);

  const Options options_;
  mutable Mutex mutex_;
  std::shared_ptr<const ApiKeys> keys_ GUARDED_BY(mutex_);
};

}  // namespace tessera
