#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace tessera {

// What the kernel says of this process.
struct ProcessStats {
  int64_t resident_bytes = 0;
  int64_t num_open_fds = 0;
  int64_t max_fds = 0;
  double cpu_seconds = 0.0;
  double start_unix_seconds = 0.0;
};

ProcessStats ReadProcessStats();

// Raises the limit of open files to the most this process may have, since gRPC's listener never
// accepts again once it has run out. FAILED_PRECONDITION where that leaves fewer than `min_fds`.
absl::StatusOr<int64_t> RaiseOpenFileLimit(int64_t min_fds);

}  // namespace tessera
