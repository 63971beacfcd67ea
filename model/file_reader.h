#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// A regular file opened for reading at any offset, with pread and never a mapping: a file cut short
// under us is a status, not a signal. Reading from several threads is safe.
class FileReader {
 public:
  // NOT_FOUND if it cannot be opened, INVALID_ARGUMENT if it is no regular file.
  static absl::StatusOr<std::unique_ptr<const FileReader>> Open(const std::string& path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  // Reads out.size() bytes at `offset`. DATA_LOSS if the file has become shorter, UNAVAILABLE if
  // the device fails.
  absl::Status Read(uint64_t offset, std::span<std::byte> out) const;

  const std::string& path() const { return path_; }
  uint64_t size_bytes() const { return size_bytes_; }  // when it was opened

 private:
  FileReader(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  const std::string path_;
  const int fd_;
  uint64_t size_bytes_ = 0;
};

}  // namespace tessera
