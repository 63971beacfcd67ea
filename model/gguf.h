#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/dtype.h"

namespace tessera {

// Value types of GGUF metadata, as the file numbers them.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// One row of the tensor table. Dimensions run from the contiguous one outwards: a weight matrix
// [out features, in features] has dims {in features, out features, 1, 1}.
struct GgufTensor {
  std::string_view name;
  DType type = DType::kF32;
  int num_dims = 0;
  std::array<int64_t, 4> dims = {1, 1, 1, 1};
  uint64_t file_offset = 0;  // of the first byte
  uint64_t size_bytes = 0;

  int64_t cols() const { return dims[0]; }
  int64_t rows() const { return dims[1] * dims[2] * dims[3]; }
};

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
  ~GgufFile();
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
  std::span<const GgufTensor> tensors() const { return tensors_; }
  // Null if there is none of that name.
  const GgufTensor* FindTensor(std::string_view name) const;

  // Reads rows [first_row, first_row + num_rows) of a tensor, RowBytes(type, cols) apart.
  // REQUIRES: the tensor is of this file and has those rows; `out` has room for them.
  absl::Status ReadRows(const GgufTensor& tensor, int64_t first_row, int64_t num_rows,
                        std::byte* out) const;
  // Reads out.size() bytes at `offset`. DATA_LOSS if the file has become shorter.
  absl::Status Read(uint64_t offset, std::span<std::byte> out) const;

  const std::string& path() const { return path_; }
  uint64_t size_bytes() const { return size_bytes_; }
  // Everything before the first tensor's data, the padding included.
  std::span<const std::byte> header() const { return header_; }

 private:
  friend class GgufParser;
  // A metadata pair; the value's bytes begin at header_[value_offset].
  struct Value {
    std::string_view key;
    GgufType type = GgufType::kUint8;
    GgufType element_type = GgufType::kUint8;  // of an array
    uint64_t count = 1;                        // elements of an array
    size_t value_offset = 0;                   // first element of an array
  };

  GgufFile(std::string path, int fd, uint64_t size_bytes);

  const Value* FindValue(std::string_view key) const;
  // The value, if it is of one of `types` (arrays: has elements of one of them).
  absl::StatusOr<const Value*> Scalar(std::string_view key, std::span<const GgufType> types,
                                      const char* expected) const;
  absl::StatusOr<const Value*> Array(std::string_view key, std::span<const GgufType> types,
                                     const char* expected) const;
  absl::Status WrongType(const Value& value, const char* expected) const;
  absl::Status MissingKey(std::string_view key, const char* expected) const;
  // The string whose length field is at `*offset`, which moves behind it.
  std::string_view StringAt(size_t* offset) const;

  const std::string path_;
  const int fd_;
  const uint64_t size_bytes_;
  std::vector<std::byte> header_;
  std::vector<Value> values_;              // sorted by key
  std::vector<GgufTensor> tensors_;        // in file order
  std::vector<uint32_t> tensors_by_name_;  // indices into tensors_, sorted by name
};

}  // namespace tessera
