#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace tessera {

// An address to listen on. An IPv6 host is kept without its brackets.
struct HostPort {
  std::string host;
  int port = 0;  // 0: any free port

  std::string ToString() const;  // "127.0.0.1:80", "[::1]:80"
};

absl::StatusOr<HostPort> ParseHostPort(const std::string& text);

}  // namespace tessera
