#include "model/gguf.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

// The format: github.com/ggml-org/ggml, docs/gguf.md.

namespace tessera {
namespace {

// Far above any real file, and low enough that a hostile one costs little.
constexpr uint64_t kMaxHeaderBytes = uint64_t{256} << 20;
constexpr uint64_t kMaxStringBytes = uint64_t{64} << 20;
constexpr uint64_t kMaxKeyBytes = uint64_t{64} << 10;
constexpr uint64_t kMaxValues = uint64_t{64} << 10;
constexpr uint64_t kMaxTensors = uint64_t{64} << 10;
constexpr uint64_t kMaxTensorNameBytes = 63;
constexpr uint64_t kMaxAlignment = uint64_t{64} << 10;
constexpr uint64_t kDefaultAlignment = 32;
constexpr size_t kReadAheadBytes = size_t{256} << 10;

constexpr char kAlignmentKey[] = "general.alignment";

// A file's own text in a message: short, and no control characters.
std::string Quoted(std::string_view text) {
  constexpr size_t kMaxShown = 80;
  const std::string shown(text.substr(0, kMaxShown));
  return absl::StrCat("'", absl::CHexEscape(shown), text.size() > kMaxShown ? "..." : "", "'");
}

std::string TypeName(GgufType type) {
  constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                    "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

// Bytes of a value of fixed size; 0 for strings and arrays.
size_t FixedBytes(GgufType type) {
  constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kBytes[static_cast<size_t>(type)];
}

struct TypeId {
  uint32_t id;
  const char* name;
  std::optional<DType> type;  // unset: known by name, not supported
};
constexpr TypeId kTypeIds[] = {
    {0, "F32", DType::kF32},      {1, "F16", DType::kF16},       {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},    {6, "Q5_0", DType::kQ5_0},     {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},    {9, "Q8_1", std::nullopt},     {10, "Q2_K", std::nullopt},
    {11, "Q3_K", std::nullopt},   {12, "Q4_K", DType::kQ4_K},    {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K},   {15, "Q8_K", std::nullopt},    {16, "IQ2_XXS", std::nullopt},
    {17, "IQ2_XS", std::nullopt}, {18, "IQ3_XXS", std::nullopt}, {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", std::nullopt}, {21, "IQ3_S", std::nullopt},   {22, "IQ2_S", std::nullopt},
    {23, "IQ4_XS", std::nullopt}, {24, "I8", std::nullopt},      {25, "I16", std::nullopt},
    {26, "I32", std::nullopt},    {27, "I64", std::nullopt},     {28, "F64", std::nullopt},
    {29, "IQ1_M", std::nullopt},  {30, "BF16", DType::kBf16},    {34, "TQ1_0", std::nullopt},
    {35, "TQ2_0", std::nullopt},  {39, "MXFP4", std::nullopt},
};

std::string SupportedTypes() {
  std::string names;
  for (DType type : kAllDTypes) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(Name(type)));
  }
  return names;
}

std::string ErrnoMessage(int error) { return std::generic_category().message(error); }

// Overflow-checked arithmetic on sizes read from a file.
std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}
std::optional<uint64_t> CheckedMultiply(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}
std::optional<uint64_t> CheckedAlign(uint64_t offset, uint64_t alignment) {
  const std::optional<uint64_t> sum = CheckedAdd(offset, alignment - 1);
  if (!sum) return std::nullopt;
  return *sum / alignment * alignment;
}

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

// Fills a GgufFile from its bytes. The cursor never passes the end of what was read: every field is
// preceded by Need().
class GgufParser {
 public:
  explicit GgufParser(GgufFile* file) : file_(*file) {}

  absl::Status Parse() {
    RETURN_IF_ERROR(ParseCounts());
    RETURN_IF_ERROR(ParseValues());
    RETURN_IF_ERROR(ParseTensors());
    RETURN_IF_ERROR(PlaceTensors());
    FillViews();
    RETURN_IF_ERROR(IndexValues());
    return IndexTensors();
  }

 private:
  // A string inside the header, kept as an offset because the header still grows.
  struct Text {
    size_t offset = 0;
    size_t size = 0;
  };

  absl::Status Malformed(const std::string& message) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path_, ": ", message));
  }

  // Makes bytes [cursor_, cursor_ + size) present. `field` names them in the message.
  absl::Status Need(uint64_t size, const char* field) {
    const uint64_t remaining = file_.size_bytes_ - cursor_;
    if (size > remaining) {
      return Malformed(absl::StrCat(field, " at byte ", cursor_, ": expected ", size,
                                    " more bytes, got ", remaining, ": the file is truncated"));
    }
    const uint64_t end = cursor_ + size;
    if (end > kMaxHeaderBytes) {
      return Malformed(absl::StrCat(field, ": metadata expected to end within ", kMaxHeaderBytes,
                                    " bytes, got at least ", end));
    }
    if (end <= file_.header_.size()) return absl::OkStatus();
    const size_t old_size = file_.header_.size();
    const uint64_t grown = std::max<uint64_t>(end, old_size + kReadAheadBytes);
    file_.header_.resize(std::min(grown, file_.size_bytes_));
    return file_.Read(old_size, std::span(file_.header_).subspan(old_size));
  }

  template <typename T>
  absl::StatusOr<T> Take(const char* field) {
    RETURN_IF_ERROR(Need(sizeof(T), field));
    const T value = Load<T>(&file_.header_[cursor_]);
    cursor_ += sizeof(T);
    return value;
  }

  absl::StatusOr<Text> TakeText(const char* field, uint64_t max_size) {
    ASSIGN_OR_RETURN(const uint64_t size, Take<uint64_t>(field));
    if (size > max_size) {
      return Malformed(absl::StrCat(field, " at byte ", cursor_, ": expected a length of at most ",
                                    max_size, ", got ", size));
    }
    RETURN_IF_ERROR(Need(size, field));
    const Text text = {cursor_, static_cast<size_t>(size)};
    cursor_ += text.size;
    return text;
  }

  std::string_view View(Text text) const {
    return {reinterpret_cast<const char*>(file_.header_.data()) + text.offset, text.size};
  }

  absl::StatusOr<uint64_t> TakeCount(const char* field, uint64_t max_count) {
    ASSIGN_OR_RETURN(const uint64_t count, Take<uint64_t>(field));
    if (count > max_count) {
      return Malformed(absl::StrCat(field, ": expected at most ", max_count, ", got ", count));
    }
    return count;
  }

  absl::Status ParseCounts() {
    ASSIGN_OR_RETURN(const uint32_t magic, Take<uint32_t>("magic"));
    if (magic != 0x46554747) {  // "GGUF", little-endian
      return Malformed(
          absl::StrCat("magic: expected 'GGUF', got ", Quoted(View({0, sizeof(magic)}))));
    }
    ASSIGN_OR_RETURN(const uint32_t version, Take<uint32_t>("version"));
    if ((version & 0xffff) == 0 && version != 0) {
      return absl::UnimplementedError(absl::StrCat(
          file_.path_, ": version: expected a little-endian file, got a big-endian one"));
    }
    if (version != 2 && version != 3) {
      return absl::UnimplementedError(
          absl::StrCat(file_.path_, ": version: expected 2 or 3, got ", version));
    }
    ASSIGN_OR_RETURN(num_tensors_, TakeCount("tensor count", kMaxTensors));
    ASSIGN_OR_RETURN(num_values_, TakeCount("metadata count", kMaxValues));
    return absl::OkStatus();
  }

  absl::StatusOr<GgufType> TakeType(const char* field) {
    ASSIGN_OR_RETURN(const uint32_t type, Take<uint32_t>(field));
    if (type > static_cast<uint32_t>(GgufType::kFloat64)) {
      return Malformed(absl::StrCat(field, " at byte ", cursor_ - sizeof(type),
                                    ": expected 0 to 12, got ", type));
    }
    return static_cast<GgufType>(type);
  }

  absl::Status ParseValues() {
    for (uint64_t i = 0; i < num_values_; ++i) RETURN_IF_ERROR(ParseValue());
    return absl::OkStatus();
  }

  absl::Status ParseValue() {
    ASSIGN_OR_RETURN(const Text key, TakeText("metadata key", kMaxKeyBytes));
    if (key.size == 0) return Malformed("metadata key: expected a name, got an empty string");
    GgufFile::Value value;
    ASSIGN_OR_RETURN(value.type, TakeType("metadata type"));
    if (value.type == GgufType::kArray) {
      RETURN_IF_ERROR(ParseArray(&value));
    } else {
      value.value_offset = cursor_;
      RETURN_IF_ERROR(SkipElements(value.type, 1));
    }
    if (View(key) == kAlignmentKey) RETURN_IF_ERROR(SetAlignment(value));
    file_.values_.push_back(value);
    keys_.push_back(key);
    return absl::OkStatus();
  }

  absl::Status ParseArray(GgufFile::Value* value) {
    ASSIGN_OR_RETURN(value->element_type, TakeType("array element type"));
    if (value->element_type == GgufType::kArray) {
      return Malformed("array element type: expected a scalar or string, got array");
    }
    ASSIGN_OR_RETURN(value->count, Take<uint64_t>("array length"));
    value->value_offset = cursor_;
    return SkipElements(value->element_type, value->count);
  }

  // Moves behind `count` values of a type, checking them.
  absl::Status SkipElements(GgufType type, uint64_t count) {
    if (type == GgufType::kString) return SkipStrings(count);
    const std::optional<uint64_t> size = CheckedMultiply(count, FixedBytes(type));
    if (!size) {
      return Malformed(absl::StrCat("array length: expected a size that fits, got ", count, " x ",
                                    FixedBytes(type), " bytes"));
    }
    RETURN_IF_ERROR(Need(*size, "metadata value"));
    const size_t begin = cursor_;
    cursor_ += *size;
    return type == GgufType::kBool ? CheckBools(begin) : absl::OkStatus();
  }

  absl::Status SkipStrings(uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      absl::StatusOr<Text> text = TakeText("metadata string", kMaxStringBytes);
      if (!text.ok()) return text.status();
    }
    return absl::OkStatus();
  }

  absl::Status CheckBools(size_t begin) const {
    for (size_t i = begin; i < cursor_; ++i) {
      const auto value = static_cast<uint8_t>(file_.header_[i]);
      if (value > 1) {
        return Malformed(absl::StrCat("bool at byte ", i, ": expected 0 or 1, got ", value));
      }
    }
    return absl::OkStatus();
  }

  absl::Status SetAlignment(const GgufFile::Value& value) {
    if (value.type != GgufType::kUint32) {
      return Malformed(absl::StrCat(kAlignmentKey, ": expected a u32, got ", TypeName(value.type)));
    }
    alignment_ = Load<uint32_t>(&file_.header_[value.value_offset]);
    if (alignment_ == 0 || (alignment_ & (alignment_ - 1)) != 0 || alignment_ > kMaxAlignment) {
      return Malformed(absl::StrCat(kAlignmentKey, ": expected a power of two of at most ",
                                    kMaxAlignment, ", got ", alignment_));
    }
    return absl::OkStatus();
  }

  absl::Status ParseTensors() {
    for (uint64_t i = 0; i < num_tensors_; ++i) RETURN_IF_ERROR(ParseTensor());
    return absl::OkStatus();
  }

  absl::Status ParseTensor() {
    ASSIGN_OR_RETURN(const Text name, TakeText("tensor name", kMaxTensorNameBytes));
    if (name.size == 0) return Malformed("tensor name: expected a name, got an empty string");
    GgufTensor tensor;
    ASSIGN_OR_RETURN(const uint32_t num_dims, Take<uint32_t>("tensor dimension count"));
    if (num_dims > tensor.dims.size()) {
      return Malformed(absl::StrCat("tensor ", Quoted(View(name)), ": expected at most ",
                                    tensor.dims.size(), " dimensions, got ", num_dims));
    }
    tensor.num_dims = static_cast<int>(num_dims);
    for (uint32_t d = 0; d < num_dims; ++d) {
      ASSIGN_OR_RETURN(tensor.dims[d], Take<int64_t>("tensor dimension"));
    }
    ASSIGN_OR_RETURN(const uint32_t type_id, Take<uint32_t>("tensor type"));
    RETURN_IF_ERROR(SetType(View(name), type_id, &tensor));
    RETURN_IF_ERROR(SetSize(View(name), &tensor));
    ASSIGN_OR_RETURN(tensor.file_offset, Take<uint64_t>("tensor offset"));
    file_.tensors_.push_back(tensor);
    names_.push_back(name);
    return absl::OkStatus();
  }

  absl::Status SetType(std::string_view name, uint32_t type_id, GgufTensor* tensor) const {
    const auto* known = std::find_if(std::begin(kTypeIds), std::end(kTypeIds),
                                     [&](const TypeId& entry) { return entry.id == type_id; });
    if (known == std::end(kTypeIds)) {
      return Malformed(absl::StrCat("tensor ", Quoted(name), ": expected a type among ",
                                    SupportedTypes(), ", got the unknown type id ", type_id));
    }
    if (!known->type) {
      return absl::UnimplementedError(absl::StrCat(file_.path_, ": tensor ", Quoted(name),
                                                   ": expected a type among ", SupportedTypes(),
                                                   ", got ", known->name));
    }
    tensor->type = *known->type;
    return absl::OkStatus();
  }

  absl::Status SetSize(std::string_view name, GgufTensor* tensor) const {
    uint64_t num_elements = 1;
    for (int64_t dim : tensor->dims) {
      if (dim < 0) {
        return Malformed(
            absl::StrCat("tensor ", Quoted(name), ": expected dimensions >= 0, got ", dim));
      }
      const std::optional<uint64_t> product =
          CheckedMultiply(num_elements, static_cast<uint64_t>(dim));
      if (!product || *product > uint64_t{std::numeric_limits<int64_t>::max()}) {
        return Malformed(absl::StrCat("tensor ", Quoted(name),
                                      ": expected fewer than 2^63 elements, got ", num_elements,
                                      " x ", dim));
      }
      num_elements = *product;
    }
    const auto block_elements = static_cast<uint64_t>(BlockElements(tensor->type));
    if (static_cast<uint64_t>(tensor->cols()) % block_elements != 0) {
      return Malformed(absl::StrCat(
          "tensor ", Quoted(name), ": expected a row length divisible by ", block_elements, " for ",
          std::string(tessera::Name(tensor->type)), ", got ", tensor->cols()));
    }
    const std::optional<uint64_t> size = CheckedMultiply(
        num_elements / block_elements, static_cast<uint64_t>(BlockBytes(tensor->type)));
    if (!size) {
      return Malformed(absl::StrCat("tensor ", Quoted(name),
                                    ": expected a size below 2^64 bytes, got ", num_elements,
                                    " elements"));
    }
    tensor->size_bytes = *size;
    return absl::OkStatus();
  }

  // Offsets in the file are relative to the aligned end of the table. The tensors must follow each
  // other in table order, so that none overlap and none lie outside the file.
  absl::Status PlaceTensors() {
    uint64_t data_start = cursor_;
    if (!file_.tensors_.empty()) {
      data_start = *CheckedAlign(cursor_, alignment_);
      RETURN_IF_ERROR(Need(data_start - cursor_, "padding before the tensor data"));
    }
    uint64_t relative = 0;
    for (size_t i = 0; i < file_.tensors_.size(); ++i) {
      GgufTensor& tensor = file_.tensors_[i];
      if (tensor.file_offset != relative) {
        return Malformed(absl::StrCat("tensor ", Quoted(View(names_[i])), ": expected offset ",
                                      relative, ", got ", tensor.file_offset));
      }
      const std::optional<uint64_t> begin = CheckedAdd(data_start, relative);
      const std::optional<uint64_t> end =
          begin ? CheckedAdd(*begin, tensor.size_bytes) : std::nullopt;
      if (!end || *end > file_.size_bytes_) {
        return Malformed(absl::StrCat("tensor ", Quoted(View(names_[i])), ": expected ",
                                      tensor.size_bytes, " bytes at ", data_start + relative,
                                      ", got a file of ", file_.size_bytes_,
                                      " bytes: it is truncated"));
      }
      tensor.file_offset = *begin;
      const std::optional<uint64_t> next = CheckedAlign(relative + tensor.size_bytes, alignment_);
      if (!next) return Malformed("tensor data: expected a size below 2^64 bytes");
      relative = *next;
    }
    file_.header_.resize(data_start);
    file_.header_.shrink_to_fit();
    return absl::OkStatus();
  }

  void FillViews() {
    for (size_t i = 0; i < keys_.size(); ++i) file_.values_[i].key = View(keys_[i]);
    for (size_t i = 0; i < names_.size(); ++i) file_.tensors_[i].name = View(names_[i]);
  }

  // Sorted, not hashed: a hostile file can make no lookup slow.
  absl::Status IndexValues() {
    auto& values = file_.values_;
    std::sort(values.begin(), values.end(),
              [](const auto& a, const auto& b) { return a.key < b.key; });
    const auto twin = std::adjacent_find(values.begin(), values.end(),
                                         [](auto& a, auto& b) { return a.key == b.key; });
    if (twin == values.end()) return absl::OkStatus();
    return Malformed(
        absl::StrCat("metadata key ", Quoted(twin->key), ": expected once, got twice"));
  }

  absl::Status IndexTensors() {
    auto& order = file_.tensors_by_name_;
    const auto name = [this](uint32_t i) { return file_.tensors_[i].name; };
    order.resize(file_.tensors_.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return name(a) < name(b); });
    const auto twin = std::adjacent_find(
        order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return name(a) == name(b); });
    if (twin == order.end()) return absl::OkStatus();
    return Malformed(absl::StrCat("tensor ", Quoted(name(*twin)), ": expected once, got twice"));
  }

  GgufFile& file_;
  size_t cursor_ = 0;
  uint64_t num_tensors_ = 0;
  uint64_t num_values_ = 0;
  uint64_t alignment_ = kDefaultAlignment;
  std::vector<Text> keys_;   // of file_.values_, until it is sorted
  std::vector<Text> names_;  // of file_.tensors_
};

GgufFile::GgufFile(std::string path, int fd, uint64_t size_bytes)
    : path_(std::move(path)), fd_(fd), size_bytes_(size_bytes) {}

GgufFile::~GgufFile() { close(fd_); }

absl::StatusOr<std::unique_ptr<const GgufFile>> GgufFile::Open(const std::string& path) {
  // Non-blocking, so that opening a named pipe does not hang.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be opened: ", ErrnoMessage(errno)));
  }
  struct stat info = {};
  const bool is_regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  std::unique_ptr<GgufFile> file(
      new GgufFile(path, fd, is_regular ? static_cast<uint64_t>(info.st_size) : 0));
  if (!is_regular) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a regular file"));
  }
  RETURN_IF_ERROR(GgufParser(file.get()).Parse());
  return std::unique_ptr<const GgufFile>(std::move(file));
}

const GgufFile::Value* GgufFile::FindValue(std::string_view key) const {
  const auto found =
      std::lower_bound(values_.begin(), values_.end(), key,
                       [](const Value& value, std::string_view k) { return value.key < k; });
  return found != values_.end() && found->key == key ? &*found : nullptr;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found =
      std::lower_bound(tensors_by_name_.begin(), tensors_by_name_.end(), name,
                       [this](uint32_t i, std::string_view n) { return tensors_[i].name < n; });
  if (found == tensors_by_name_.end() || tensors_[*found].name != name) return nullptr;
  return &tensors_[*found];
}

absl::Status GgufFile::WrongType(const Value& value, const char* expected) const {
  std::string actual = TypeName(value.type);
  if (value.type == GgufType::kArray)
    absl::StrAppend(&actual, " of ", TypeName(value.element_type));
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ": ", std::string(value.key), ": expected ", expected, ", got ", actual));
}

absl::Status GgufFile::MissingKey(std::string_view key, const char* expected) const {
  return absl::NotFoundError(
      absl::StrCat(path_, ": ", std::string(key), ": expected ", expected, ", got no such key"));
}

absl::StatusOr<const GgufFile::Value*> GgufFile::Scalar(std::string_view key,
                                                        std::span<const GgufType> types,
                                                        const char* expected) const {
  const Value* value = FindValue(key);
  if (value == nullptr) return MissingKey(key, expected);
  if (!Contains(types, value->type)) return WrongType(*value, expected);
  return value;
}

absl::StatusOr<const GgufFile::Value*> GgufFile::Array(std::string_view key,
                                                       std::span<const GgufType> types,
                                                       const char* expected) const {
  const Value* value = FindValue(key);
  if (value == nullptr) return MissingKey(key, expected);
  if (value->type != GgufType::kArray || !Contains(types, value->element_type)) {
    return WrongType(*value, expected);
  }
  return value;
}

bool GgufFile::IsArray(std::string_view key) const {
  const Value* value = FindValue(key);
  return value != nullptr && value->type == GgufType::kArray;
}

absl::StatusOr<uint64_t> GgufFile::Unsigned(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Scalar(key, kIntegerTypes, "an unsigned integer"));
  const int64_t integer = LoadInteger(value->type, &header_[value->value_offset]);
  if (integer < 0 && value->type != GgufType::kUint64) {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, ": ", std::string(key), ": expected an unsigned integer, got ", integer));
  }
  return static_cast<uint64_t>(integer);
}

absl::StatusOr<double> GgufFile::Float(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Scalar(key, kFloatTypes, "a float"));
  return LoadFloat(value->type, &header_[value->value_offset]);
}

absl::StatusOr<bool> GgufFile::Bool(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Scalar(key, kBoolTypes, "a bool"));
  return header_[value->value_offset] != std::byte{0};
}

std::string_view GgufFile::StringAt(size_t* offset) const {
  const auto size = static_cast<size_t>(Load<uint64_t>(&header_[*offset]));
  const auto* text = reinterpret_cast<const char*>(header_.data()) + *offset + sizeof(uint64_t);
  *offset += sizeof(uint64_t) + size;
  return {text, size};
}

absl::StatusOr<std::string_view> GgufFile::String(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Scalar(key, kStringTypes, "a string"));
  size_t offset = value->value_offset;
  return StringAt(&offset);
}

absl::StatusOr<std::vector<int64_t>> GgufFile::Integers(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Array(key, kIntegerTypes, "an array of integers"));
  const size_t element_bytes = FixedBytes(value->element_type);
  std::vector<int64_t> integers(value->count);
  for (size_t i = 0; i < integers.size(); ++i) {
    const std::byte* element = &header_[value->value_offset + i * element_bytes];
    integers[i] = LoadInteger(value->element_type, element);
    if (integers[i] < 0 && value->element_type == GgufType::kUint64) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": ", std::string(key), "[", i,
                                                     "]: expected at most 2^63 - 1, got ",
                                                     Load<uint64_t>(element)));
    }
  }
  return integers;
}

absl::StatusOr<std::vector<double>> GgufFile::Floats(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Array(key, kFloatTypes, "an array of floats"));
  const size_t element_bytes = FixedBytes(value->element_type);
  std::vector<double> floats(value->count);
  for (size_t i = 0; i < floats.size(); ++i) {
    floats[i] = LoadFloat(value->element_type, &header_[value->value_offset + i * element_bytes]);
  }
  return floats;
}

absl::StatusOr<std::vector<std::string_view>> GgufFile::Strings(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value* value, Array(key, kStringTypes, "an array of strings"));
  std::vector<std::string_view> strings(value->count);
  size_t offset = value->value_offset;
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

absl::Status GgufFile::Read(uint64_t offset, std::span<std::byte> out) const {
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
