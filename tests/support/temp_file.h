#pragma once

#include <unistd.h>

#include <string>
#include <string_view>

#include "base/check.h"

namespace tessera {

// A file of its own name that goes away with the object.
class TempFile {
 public:
  explicit TempFile(std::string_view bytes) : path_("/tmp/tessera-test-XXXXXX") {
    const int fd = mkstemp(path_.data());
    CHECK(fd >= 0) << path_;
    while (!bytes.empty()) {
      const ssize_t written = write(fd, bytes.data(), bytes.size());
      CHECK(written > 0) << path_;
      bytes.remove_prefix(static_cast<size_t>(written));
    }
    close(fd);
  }
  ~TempFile() { unlink(path_.c_str()); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tessera
