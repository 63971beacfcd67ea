#include "server/host_port.h"

#include <charconv>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr int kMaxPort = 65535;

bool ParsePort(const std::string& text, int* port) {
  const char* end = text.data() + text.size();
  const auto [parsed_to, error] = std::from_chars(text.data(), end, *port);
  return error == std::errc() && parsed_to == end && *port >= 0 && *port <= kMaxPort;
}

}  // namespace

std::string HostPort::ToString() const {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return is_ipv6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(const std::string& text) {
  const absl::Status error = absl::InvalidArgumentError(absl::StrCat(
      "expected HOST:PORT or [IPV6]:PORT with a port of 0 to 65535, got \"", text, "\""));
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return error;
  HostPort address;
  address.host = text.substr(0, colon);
  if (!ParsePort(text.substr(colon + 1), &address.port)) return error;
  if (address.host.front() == '[' && address.host.back() == ']') {
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    return error;
  }
  if (address.host.empty()) return error;
  return address;
}

}  // namespace tessera
