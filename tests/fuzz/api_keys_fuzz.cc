#include "tests/fuzz/api_keys_fuzz.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"
#include "server/api_keys.h"
#include "server/tenant_quotas.h"
#include "server/tenant_table.h"

namespace tessera {
namespace {

constexpr size_t kMaxMessageBytes = 256;
constexpr TimeNs kSecond = 1'000'000'000;
// Nobody's key, and its SHA-256.
constexpr char kProbe[] = "probe";
constexpr char kProbeDigest[] = "ba9c736f19e7f60b7f6764adb0b7908c0a2b394e09b6c09863528c7f2bc86095";

// One line for a terminal or a log, whatever the file holds.
void CheckMessage(const absl::Status& status) {
  const std::string message(status.message());
  CHECK(message.size() <= kMaxMessageBytes) << message.size();
  CHECK(std::all_of(message.begin(), message.end(), [](char c) { return c >= 0x20 && c < 0x7f; }));
}

void CheckQuota(const std::string& tenant, const TenantLimits& limits) {
  CHECK(TenantTable::IsName(tenant)) << tenant;
  for (const double limit : {limits.requests_per_second, limits.tokens_per_minute}) {
    CHECK(std::isfinite(limit) && limit >= 0) << limit;
  }
  CHECK(limits.concurrent_sequences >= 0);
  TenantQuotas quotas;
  // The most urgent request that is allowed finds its quota untouched.
  const TenantQuotas::Use use = {.priority = std::max(0, limits.most_urgent_priority)};
  auto lease = quotas.Admit(tenant, limits, use, kSecond);
  CHECK(lease.ok()) << std::string(lease.status().message());
  lease->ChargeCompletion(1000);
  const auto second = quotas.Admit(tenant, limits, use, kSecond);
  if (!second.ok()) CHECK(absl::IsResourceExhausted(second.status()));
}

void CheckAnotherKey(const std::string& text, const ApiKeys& keys) {
  if (keys.TenantOf(kProbe).has_value()) return;
  const std::string& tenant = keys.tenants().begin()->first;
  const auto more = ApiKeys::Parse(text + "\nkey " + kProbeDigest + " " + tenant);
  CHECK(more.ok()) << std::string(more.status().message());
  CHECK(more->TenantOf(kProbe) == tenant);
  CHECK(more->tenants().size() == keys.tenants().size());
}

}  // namespace

bool FuzzApiKeys(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto keys = ApiKeys::Parse(text);
  if (!keys.ok()) {
    CheckMessage(keys.status());
    return false;
  }
  for (const auto& [tenant, limits] : keys->tenants()) CheckQuota(tenant, limits);
  CheckAnotherKey(text, *keys);
  return true;
}

}  // namespace tessera

#ifdef TESSERA_LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tessera::FuzzApiKeys(data, size);
  return 0;
}
#endif
