#include "server/process_stats.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

// 1,048,576 is what Linux lets a process have by default (fs.nr_open); "unlimited" would be
// refused.
constexpr rlim_t kMaxUsefulFds = 1 << 20;

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

int64_t NumOpenFds() {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  int64_t num_entries = 0;
  while (readdir(folder) != nullptr) ++num_entries;  // NOLINT(concurrency-mt-unsafe): own stream
  closedir(folder);
  return num_entries - 3;  // ".", ".." and the folder's own
}

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

double UnixSeconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

const double kStartUnixSeconds = UnixSeconds();  // of this file's initialisation, before main

}  // namespace

ProcessStats ReadProcessStats() {
  ProcessStats stats;
  stats.resident_bytes = ResidentBytes();
  stats.num_open_fds = NumOpenFds();
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) stats.max_fds = static_cast<int64_t>(limit.rlim_cur);
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  stats.cpu_seconds = Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
  stats.start_unix_seconds = kStartUnixSeconds;
  return stats;
}

absl::StatusOr<int64_t> RaiseOpenFileLimit(int64_t min_fds) {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return absl::InternalError(absl::StrCat("getrlimit(RLIMIT_NOFILE): error ", errno));
  }
  const rlim_t wanted = std::min(limit.rlim_max, kMaxUsefulFds);
  if (limit.rlim_cur < wanted) {
    limit.rlim_cur = wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
      return absl::InternalError(absl::StrCat("setrlimit(RLIMIT_NOFILE): error ", errno));
    }
  }
  if (static_cast<int64_t>(limit.rlim_cur) < min_fds) {
    return absl::FailedPreconditionError(absl::StrCat("open files (ulimit -n): expected at least ",
                                                      min_fds, ", got ", limit.rlim_cur));
  }
  return static_cast<int64_t>(limit.rlim_cur);
}

}  // namespace tessera
