#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/file_reader.h"
#include "model/gguf_header.h"

namespace tessera {

// A GGUF model file, version 2 or 3. The file is foreign bytes: Open checks every field and the
// whole tensor table against the file's size, so that what this class hands out is consistent.
//
// Everything before the tensor data is read into memory once; tensor data is read on demand. Reads
// use pread, never a mapping, so that a file cut short under us is a status. Immutable after Open;
// reading from several threads is safe. String views point into this object.
class GgufFile {
 public:
  // NOT_FOUND or UNAVAILABLE if the file cannot be opened or read, INVALID_ARGUMENT if it is
  // malformed, UNIMPLEMENTED if it is well-formed but of a kind we do not read.
  static absl::StatusOr<std::unique_ptr<const GgufFile>> Open(const std::string& path);
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  // Metadata. NOT_FOUND for a missing key, INVALID_ARGUMENT for a value of another type. Unsigned
  // and Integers accept every integer type, Float and Floats both float types.
  bool Has(std::string_view key) const { return FindValue(key) != nullptr; }
  absl::StatusOr<uint64_t> Unsigned(std::string_view key) const;
  absl::StatusOr<double> Float(std::string_view key) const;
  absl::StatusOr<bool> Bool(std::string_view key) const;
  absl::StatusOr<std::string_view> String(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Integers(std::string_view key) const;
  absl::StatusOr<std::vector<double>> Floats(std::string_view key) const;
  absl::StatusOr<std::vector<std::string_view>> Strings(std::string_view key) const;
  // True if the key holds an array.
  bool IsArray(std::string_view key) const;

  // In file order, which is also the order of their data.
  std::span<const GgufTensor> tensors() const { return header_.tensors; }
  // Null if there is none of that name.
  const GgufTensor* FindTensor(std::string_view name) const;

  // Reads rows [first_row, first_row + num_rows) of a tensor, RowBytes(type, cols) apart.
  // REQUIRES: the tensor is of this file and has those rows; `out` has room for them.
  absl::Status ReadRows(const GgufTensor& tensor, int64_t first_row, int64_t num_rows,
                        std::byte* out) const;
  // Reads out.size() bytes at `offset`. DATA_LOSS if the file has become shorter.
  absl::Status Read(uint64_t offset, std::span<std::byte> out) const {
    return file_->Read(offset, out);
  }

  const std::string& path() const { return file_->path(); }
  uint64_t size_bytes() const { return file_->size_bytes(); }
  // Everything before the first tensor's data, the padding included.
  std::span<const std::byte> header() const { return header_.bytes; }

 private:
  GgufFile(std::unique_ptr<const FileReader> file, GgufHeader header)
      : file_(std::move(file)), header_(std::move(header)) {}

  const GgufValue* FindValue(std::string_view key) const;
  // The value, if it is of one of `types` (arrays: has elements of one of them).
  absl::StatusOr<const GgufValue*> Scalar(std::string_view key, std::span<const GgufType> types,
                                          const char* expected) const;
  absl::StatusOr<const GgufValue*> Array(std::string_view key, std::span<const GgufType> types,
                                         const char* expected) const;
  absl::Status WrongType(const GgufValue& value, const char* expected) const;
  absl::Status MissingKey(std::string_view key, const char* expected) const;
  // The string whose length field is at `*offset`, which moves behind it.
  std::string_view StringAt(size_t* offset) const;

  const std::unique_ptr<const FileReader> file_;
  const GgufHeader header_;
};

}  // namespace tessera
