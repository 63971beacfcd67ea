#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "server/tenant_table.h"

namespace tessera {
namespace {

constexpr size_t kMaxKeys = 4096;
constexpr double kMaxLimit = 1e12;
constexpr int kMaxUrgency = 1'000'000;

// A word of the file. Not one that is too long for a limit: it may be a key in the wrong place.
std::string Shown(const std::string& word) {
  constexpr size_t kMaxShownBytes = 24;
  if (word.size() > kMaxShownBytes) return absl::StrCat(word.size(), " characters");
  return absl::StrCat("\"", absl::CHexEscape(word), "\"");
}

absl::Status Expected(const std::string& expected, const std::string& actual) {
  return absl::InvalidArgumentError(absl::StrCat("expected ", expected, ", got ", actual));
}

bool ParseDigest(const std::string& hex, std::array<uint8_t, 32>* digest) {
  const auto is_hex = [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); };
  if (hex.size() != 64 || !std::all_of(hex.begin(), hex.end(), is_hex)) return false;
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), digest->begin());
  return true;
}

absl::Status SetLimit(const std::string& word, TenantLimits* limits) {
  const size_t equals = word.find('=');
  const std::string name = word.substr(0, equals);
  double value = 0;
  const bool is_number = equals != std::string::npos &&
                         absl::SimpleAtod(word.substr(equals + 1), &value) && std::isfinite(value);
  const bool is_whole = std::floor(value) == value;
  if (!is_number) return Expected("LIMIT=NUMBER", Shown(word));
  if (name == "most_urgent_priority") {
    if (!is_whole || std::fabs(value) > kMaxUrgency) return Expected("a priority", Shown(word));
    limits->most_urgent_priority = static_cast<int>(value);
    return absl::OkStatus();
  }
  if (!(value > 0 && value <= kMaxLimit)) return Expected("a number above 0", Shown(word));
  if (name == "requests_per_second") {
    limits->requests_per_second = value;
  } else if (name == "tokens_per_minute") {
    limits->tokens_per_minute = value;
  } else if (name == "concurrent_sequences" && is_whole && value <= INT32_MAX) {
    limits->concurrent_sequences = static_cast<int>(value);
  } else {
    return Expected(
        "requests_per_second, tokens_per_minute, concurrent_sequences (a whole number) or "
        "most_urgent_priority",
        Shown(word));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Parse(std::string_view text) {
  ApiKeys keys;
  int line_number = 0;
  for (const absl::string_view line :
       absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++line_number;
    const absl::string_view content = line.substr(0, line.find('#'));
    const std::vector<std::string> words =
        absl::StrSplit(content, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    const absl::Status added = words.empty() ? absl::OkStatus() : keys.AddLine(words);
    if (!added.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", line_number, ": ", added.message()));
    }
  }
  if (keys.keys_.empty()) return absl::InvalidArgumentError("expected at least one key, got none");
  return keys;
}

absl::StatusOr<ApiKeys> ApiKeys::ReadFile(const std::string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (file == nullptr) {
    return absl::NotFoundError(absl::StrCat("api-keys: expected a readable file, got ", path));
  }
  std::string text(kMaxFileBytes + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("api-keys: ", path, ": expected at most ", kMaxFileBytes, " bytes, got more"));
  }
  absl::StatusOr<ApiKeys> keys = Parse(text);
  if (keys.ok()) return keys;
  return absl::InvalidArgumentError(
      absl::StrCat("api-keys: ", path, ": ", keys.status().message()));
}

absl::Status ApiKeys::AddLine(const std::vector<std::string>& words) {
  if (words[0] == "tenant") return AddTenant(words);
  if (words[0] == "key") return AddKey(words);
  return Expected("\"tenant\" or \"key\"", Shown(words[0]));
}

absl::Status ApiKeys::AddTenant(const std::vector<std::string>& words) {
  if (words.size() < 2 || !TenantTable::IsName(words[1])) {
    return Expected(absl::StrCat("a tenant's name of 1 to ", TenantTable::kMaxNameBytes,
                                 " printable ASCII characters"),
                    words.size() < 2 ? "nothing" : Shown(words[1]));
  }
  TenantLimits limits;
  for (size_t i = 2; i < words.size(); ++i) RETURN_IF_ERROR(SetLimit(words[i], &limits));
  if (!tenants_.emplace(words[1], limits).second) {
    return Expected("each tenant once", Shown(words[1]));
  }
  return absl::OkStatus();
}

absl::Status ApiKeys::AddKey(const std::vector<std::string>& words) {
  if (words.size() != 3) return Expected("key SHA256 TENANT", absl::StrCat(words.size(), " words"));
  Key key{{}, words[2]};
  // Not shown: who mistook the file's format may have written the key itself.
  if (!ParseDigest(words[1], &key.digest)) {
    return Expected("a SHA-256 of 64 hexadecimal digits",
                    absl::StrCat(words[1].size(), " characters"));
  }
  if (!tenants_.contains(words[2])) return Expected("a tenant declared above", Shown(words[2]));
  const bool is_known = std::any_of(keys_.begin(), keys_.end(),
                                    [&](const Key& other) { return other.digest == key.digest; });
  if (is_known) return Expected("each key once", absl::StrCat(words[1].substr(0, 8), "..."));
  if (keys_.size() == kMaxKeys)
    return Expected(absl::StrCat("at most ", kMaxKeys, " keys"), "more");
  keys_.push_back(std::move(key));
  return absl::OkStatus();
}

std::optional<std::string> ApiKeys::TenantOf(std::string_view key) const {
  Digest digest;
  SHA256(reinterpret_cast<const uint8_t*>(key.data()), key.size(), digest.data());
  size_t found = keys_.size();
  for (size_t i = 0; i < keys_.size(); ++i) {
    if (CRYPTO_memcmp(keys_[i].digest.data(), digest.data(), digest.size()) == 0) found = i;
  }
  if (found == keys_.size()) return std::nullopt;
  return keys_[found].tenant;
}

}  // namespace tessera
