#include "model/gguf.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace tessera {
namespace {

template <typename T>
T Load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// REQUIRES: an integer type.
int64_t LoadInteger(GgufType type, const std::byte* bytes) {
  switch (type) {
    case GgufType::kUint8:
      return Load<uint8_t>(bytes);
    case GgufType::kInt8:
      return Load<int8_t>(bytes);
    case GgufType::kUint16:
      return Load<uint16_t>(bytes);
    case GgufType::kInt16:
      return Load<int16_t>(bytes);
    case GgufType::kUint32:
      return Load<uint32_t>(bytes);
    case GgufType::kInt32:
      return Load<int32_t>(bytes);
    case GgufType::kUint64:
    case GgufType::kInt64:
      return Load<int64_t>(bytes);
    default:
      break;
  }
  CHECK(false) << "not an integer type: " << static_cast<uint32_t>(type);
  return 0;
}

double LoadFloat(GgufType type, const std::byte* bytes) {
  return type == GgufType::kFloat32 ? double{Load<float>(bytes)} : Load<double>(bytes);
}

constexpr GgufType kIntegerTypes[] = {GgufType::kUint8,  GgufType::kInt8,   GgufType::kUint16,
                                      GgufType::kInt16,  GgufType::kUint32, GgufType::kInt32,
                                      GgufType::kUint64, GgufType::kInt64};
constexpr GgufType kFloatTypes[] = {GgufType::kFloat32, GgufType::kFloat64};
constexpr GgufType kBoolTypes[] = {GgufType::kBool};
constexpr GgufType kStringTypes[] = {GgufType::kString};

bool Contains(std::span<const GgufType> types, GgufType type) {
  return std::find(types.begin(), types.end(), type) != types.end();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const GgufFile>> GgufFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<const FileReader> file, FileReader::Open(path));
  ASSIGN_OR_RETURN(GgufHeader header, ParseGgufHeader(*file));
  return std::unique_ptr<const GgufFile>(new GgufFile(std::move(file), std::move(header)));
}

const GgufValue* GgufFile::FindValue(std::string_view key) const {
  const auto found =
      std::lower_bound(header_.values.begin(), header_.values.end(), key,
                       [](const GgufValue& value, std::string_view k) { return value.key < k; });
  return found != header_.values.end() && found->key == key ? &*found : nullptr;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = std::lower_bound(
      header_.tensors_by_name.begin(), header_.tensors_by_name.end(), name,
      [this](uint32_t i, std::string_view n) { return header_.tensors[i].name < n; });
  if (found == header_.tensors_by_name.end() || header_.tensors[*found].name != name)
    return nullptr;
  return &header_.tensors[*found];
}

absl::Status GgufFile::WrongType(const GgufValue& value, const char* expected) const {
  std::string actual = TypeName(value.type);
  if (value.type == GgufType::kArray)
    absl::StrAppend(&actual, " of ", TypeName(value.element_type));
  return absl::InvalidArgumentError(absl::StrCat(path(), ": ", std::string(value.key),
                                                 ": expected ", expected, ", got ", actual));
}

absl::Status GgufFile::MissingKey(std::string_view key, const char* expected) const {
  return absl::NotFoundError(
      absl::StrCat(path(), ": ", std::string(key), ": expected ", expected, ", got no such key"));
}

absl::StatusOr<const GgufValue*> GgufFile::Scalar(std::string_view key,
                                                  std::span<const GgufType> types,
                                                  const char* expected) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) return MissingKey(key, expected);
  if (!Contains(types, value->type)) return WrongType(*value, expected);
  return value;
}

absl::StatusOr<const GgufValue*> GgufFile::Array(std::string_view key,
                                                 std::span<const GgufType> types,
                                                 const char* expected) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) return MissingKey(key, expected);
  if (value->type != GgufType::kArray || !Contains(types, value->element_type)) {
    return WrongType(*value, expected);
  }
  return value;
}

bool GgufFile::IsArray(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  return value != nullptr && value->type == GgufType::kArray;
}

absl::StatusOr<uint64_t> GgufFile::Unsigned(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Scalar(key, kIntegerTypes, "an unsigned integer"));
  const int64_t integer = LoadInteger(value->type, &header_.bytes[value->offset]);
  if (integer < 0 && value->type != GgufType::kUint64) {
    return absl::InvalidArgumentError(absl::StrCat(
        path(), ": ", std::string(key), ": expected an unsigned integer, got ", integer));
  }
  return static_cast<uint64_t>(integer);
}

absl::StatusOr<double> GgufFile::Float(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Scalar(key, kFloatTypes, "a float"));
  return LoadFloat(value->type, &header_.bytes[value->offset]);
}

absl::StatusOr<bool> GgufFile::Bool(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Scalar(key, kBoolTypes, "a bool"));
  return header_.bytes[value->offset] != std::byte{0};
}

std::string_view GgufFile::StringAt(size_t* offset) const {
  const auto size = static_cast<size_t>(Load<uint64_t>(&header_.bytes[*offset]));
  const auto* text =
      reinterpret_cast<const char*>(header_.bytes.data()) + *offset + sizeof(uint64_t);
  *offset += sizeof(uint64_t) + size;
  return {text, size};
}

absl::StatusOr<std::string_view> GgufFile::String(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Scalar(key, kStringTypes, "a string"));
  size_t offset = value->offset;
  return StringAt(&offset);
}

absl::StatusOr<std::vector<int64_t>> GgufFile::Integers(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Array(key, kIntegerTypes, "an array of integers"));
  const size_t element_bytes = FixedBytes(value->element_type);
  std::vector<int64_t> integers(value->count);
  for (size_t i = 0; i < integers.size(); ++i) {
    const std::byte* element = &header_.bytes[value->offset + i * element_bytes];
    integers[i] = LoadInteger(value->element_type, element);
    if (integers[i] < 0 && value->element_type == GgufType::kUint64) {
      return absl::InvalidArgumentError(absl::StrCat(path(), ": ", std::string(key), "[", i,
                                                     "]: expected at most 2^63 - 1, got ",
                                                     Load<uint64_t>(element)));
    }
  }
  return integers;
}

absl::StatusOr<std::vector<double>> GgufFile::Floats(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Array(key, kFloatTypes, "an array of floats"));
  const size_t element_bytes = FixedBytes(value->element_type);
  std::vector<double> floats(value->count);
  for (size_t i = 0; i < floats.size(); ++i) {
    floats[i] = LoadFloat(value->element_type, &header_.bytes[value->offset + i * element_bytes]);
  }
  return floats;
}

absl::StatusOr<std::vector<std::string_view>> GgufFile::Strings(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Array(key, kStringTypes, "an array of strings"));
  std::vector<std::string_view> strings(value->count);
  size_t offset = value->offset;
  for (std::string_view& text : strings) text = StringAt(&offset);
  return strings;
}

absl::Status GgufFile::ReadRows(const GgufTensor& tensor, int64_t first_row, int64_t num_rows,
                                std::byte* out) const {
  CHECK(first_row >= 0 && num_rows >= 0 && first_row <= tensor.rows() - num_rows)
      << "rows " << first_row << " + " << num_rows << " of " << tensor.rows();
  const size_t row_bytes = RowBytes(tensor.type, tensor.cols());
  return Read(tensor.file_offset + static_cast<uint64_t>(first_row) * row_bytes,
              {out, static_cast<size_t>(num_rows) * row_bytes});
}

}  // namespace tessera
