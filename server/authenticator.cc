#include "server/authenticator.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "server/call_metadata.h"

namespace tessera {
namespace {

constexpr char kScheme[] = "Bearer ";
constexpr char kDefaultTenantKey[] = "x-tenant-id";

}  // namespace

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::Create(const Options& options) {
  std::unique_ptr<Authenticator> authenticator(new Authenticator(options));
  if (authenticator->has_keys()) RETURN_IF_ERROR(authenticator->Reload());
  return authenticator;
}

absl::Status Authenticator::Reload() {
  ASSIGN_OR_RETURN(ApiKeys keys, ApiKeys::ReadFile(options_.api_keys_path));
  auto shared = std::make_shared<const ApiKeys>(std::move(keys));
  MutexLock lock(&mutex_);
  keys_ = std::move(shared);
  return absl::OkStatus();
}

std::shared_ptr<const ApiKeys> Authenticator::keys() const {
  MutexLock lock(&mutex_);
  return keys_;
}

absl::StatusOr<Caller> Authenticator::Identify(const grpc::CallbackServerContext& context) const {
  if (has_keys()) return IdentifyByKey(context);
  if (options_.tenant_metadata_key.empty()) return Caller();
  return Caller{FindMetadata(context, options_.tenant_metadata_key).value_or(""), std::nullopt};
}

absl::StatusOr<Caller> Authenticator::IdentifyByKey(
    const grpc::CallbackServerContext& context) const {
  const std::optional<std::string> given = FindMetadata(context, "authorization");
  if (!given.has_value() || !absl::StartsWith(*given, kScheme)) {
    return absl::UnauthenticatedError(absl::StrCat("authorization: expected \"Bearer KEY\", got ",
                                                   given ? "another scheme" : "nothing"));
  }
  const std::shared_ptr<const ApiKeys> keys = this->keys();
  const auto tenant = keys->TenantOf(std::string_view(*given).substr(sizeof(kScheme) - 1));
  if (!tenant.has_value()) {
    return absl::UnauthenticatedError("authorization: expected a key that is known, got another");
  }
  const std::string& claim_key =
      options_.tenant_metadata_key.empty() ? kDefaultTenantKey : options_.tenant_metadata_key;
  const std::string claimed = FindMetadata(context, claim_key).value_or(*tenant);
  if (claimed != *tenant) {
    return absl::PermissionDeniedError(
        absl::StrCat(claim_key, ": expected the key's tenant or none, got another"));
  }
  return Caller{*tenant, keys->limits(*tenant)};
}

}  // namespace tessera
