#include "server/announce.h"

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace tessera {

absl::Status Announce(const std::string& path, const HostPort& grpc, const HostPort& metrics) {
  const std::string temporary = path + ".tmp";
  std::ofstream file(temporary, std::ios::trunc);
  file << nlohmann::json{{"grpc", grpc.ToString()}, {"metrics", metrics.ToString()}}.dump() << "\n";
  file.close();
  if (!file) return absl::UnavailableError(absl::StrCat("announce: cannot write ", temporary));
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(
        absl::StrCat("announce: cannot rename ", temporary, " to ", path, ": error ", errno));
  }
  return absl::OkStatus();
}

}  // namespace tessera
