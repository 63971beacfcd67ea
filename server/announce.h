#pragma once

#include <string>

#include "absl/status/status.h"
#include "server/host_port.h"

namespace tessera {

// Writes {"grpc":"host:port","metrics":"host:port"} to `path`, which appears whole, by rename.
absl::Status Announce(const std::string& path, const HostPort& grpc, const HostPort& metrics);

}  // namespace tessera
