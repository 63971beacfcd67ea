#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "model/file_reader.h"

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

// A metadata pair. The value's bytes, or those of an array's first element, begin at
// GgufHeader::bytes[offset].
struct GgufValue {
  std::string_view key;
  GgufType type = GgufType::kUint8;
  GgufType element_type = GgufType::kUint8;  // of an array
  uint64_t count = 1;                        // elements of an array
  size_t offset = 0;
};

// Everything that stands before a GGUF file's tensor data, checked: each value lies inside `bytes`,
// each tensor inside the file, keys and names are unique. Views point into `bytes`.
struct GgufHeader {
  std::vector<std::byte> bytes;           // of the file, up to the first tensor's data
  std::vector<GgufValue> values;          // sorted by key
  std::vector<GgufTensor> tensors;        // in file order, which is also that of their data
  std::vector<uint32_t> tensors_by_name;  // indices into tensors, sorted by name
};

// INVALID_ARGUMENT for a malformed file, UNIMPLEMENTED for a well-formed one of a kind we do not
// read. Every message says the field, what was expected and what stands there.
absl::StatusOr<GgufHeader> ParseGgufHeader(const FileReader& file);

// "u32", "string", ...
const char* TypeName(GgufType type);
// Bytes of a value of fixed size; 0 for strings and arrays.
size_t FixedBytes(GgufType type);

}  // namespace tessera
