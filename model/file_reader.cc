#include "model/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

std::string ErrnoMessage(int error) { return std::generic_category().message(error); }

}  // namespace

absl::StatusOr<std::unique_ptr<const FileReader>> FileReader::Open(const std::string& path) {
  // Non-blocking, so that opening a named pipe does not hang.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be opened: ", ErrnoMessage(errno)));
  }
  std::unique_ptr<FileReader> file(new FileReader(path, fd));
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a regular file"));
  }
  file->size_bytes_ = static_cast<uint64_t>(info.st_size);
  return std::unique_ptr<const FileReader>(std::move(file));
}

FileReader::~FileReader() { close(fd_); }

absl::Status FileReader::Read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t count = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return absl::UnavailableError(
          absl::StrCat(path_, ": cannot be read at byte ", offset, ": ", ErrnoMessage(errno)));
    }
    if (count == 0) {
      return absl::DataLossError(absl::StrCat(path_, ": expected ", size_bytes_,
                                              " bytes, got only ", offset,
                                              ": the file was truncated while it was read"));
    }
    out = out.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

}  // namespace tessera
