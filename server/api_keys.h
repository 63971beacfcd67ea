#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

// What a tenant may use. Past a limit: RESOURCE_EXHAUSTED (server/tenant_quotas.h).
struct TenantLimits {
  double requests_per_second = 0;  // 0: no limit, also of the next two
  double tokens_per_minute = 0;    // prompt and completion
  int concurrent_sequences = 0;
  int most_urgent_priority = INT32_MIN;  // smaller numbers, which are more urgent, are refused
};

// Who may call, and as whom: a file of lines
//
//   tenant NAME [requests_per_second=N] [tokens_per_minute=N] [concurrent_sequences=N]
//               [most_urgent_priority=N]
//   key SHA256 NAME      # 64 hexadecimal digits: printf %s KEY | sha256sum
//
// Blank lines and what follows a # are ignored; a tenant is declared before its keys. Only hashes
// are kept, so that neither the file nor memory gives a key away. Immutable.
class ApiKeys {
 public:
  static constexpr size_t kMaxFileBytes = size_t{1} << 20;

  // INVALID_ARGUMENT names the line, what was expected and what came.
  static absl::StatusOr<ApiKeys> Parse(std::string_view text);
  // The same of a file; NOT_FOUND where it cannot be read.
  static absl::StatusOr<ApiKeys> ReadFile(const std::string& path);

  // The tenant that a key belongs to. Takes the same time whichever key it is, or none.
  std::optional<std::string> TenantOf(std::string_view key) const;

  // REQUIRES: a tenant of the file.
  const TenantLimits& limits(const std::string& tenant) const { return tenants_.at(tenant); }
  const std::map<std::string, TenantLimits>& tenants() const { return tenants_; }

 private:
  using Digest = std::array<uint8_t, 32>;
  struct Key {
    Digest digest;
    std::string tenant;
  };

  absl::Status AddLine(const std::vector<std::string>& words);
  absl::Status AddTenant(const std::vector<std::string>& words);
  absl::Status AddKey(const std::vector<std::string>& words);

  std::map<std::string, TenantLimits> tenants_;
  std::vector<Key> keys_;
};

}  // namespace tessera
