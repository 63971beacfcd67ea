#include "model/gguf_header.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
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

struct TypeId {
  const char* name;
  uint32_t id;
  std::optional<DType> type;  // unset: known by name, not supported
};
constexpr TypeId kTypeIds[] = {
    {"F32", 0, DType::kF32},      {"F16", 1, DType::kF16},       {"Q4_0", 2, DType::kQ4_0},
    {"Q4_1", 3, DType::kQ4_1},    {"Q5_0", 6, DType::kQ5_0},     {"Q5_1", 7, DType::kQ5_1},
    {"Q8_0", 8, DType::kQ8_0},    {"Q8_1", 9, std::nullopt},     {"Q2_K", 10, std::nullopt},
    {"Q3_K", 11, std::nullopt},   {"Q4_K", 12, DType::kQ4_K},    {"Q5_K", 13, DType::kQ5_K},
    {"Q6_K", 14, DType::kQ6_K},   {"Q8_K", 15, std::nullopt},    {"IQ2_XXS", 16, std::nullopt},
    {"IQ2_XS", 17, std::nullopt}, {"IQ3_XXS", 18, std::nullopt}, {"IQ1_S", 19, std::nullopt},
    {"IQ4_NL", 20, std::nullopt}, {"IQ3_S", 21, std::nullopt},   {"IQ2_S", 22, std::nullopt},
    {"IQ4_XS", 23, std::nullopt}, {"I8", 24, std::nullopt},      {"I16", 25, std::nullopt},
    {"I32", 26, std::nullopt},    {"I64", 27, std::nullopt},     {"F64", 28, std::nullopt},
    {"IQ1_M", 29, std::nullopt},  {"BF16", 30, DType::kBf16},    {"TQ1_0", 34, std::nullopt},
    {"TQ2_0", 35, std::nullopt},  {"MXFP4", 39, std::nullopt},
};

std::string SupportedTypes() {
  std::string names;
  for (DType type : kAllDTypes) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(Name(type)));
  }
  return names;
}

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

// The cursor never passes the end of what was read: every field is preceded by Need().
class GgufParser {
 public:
  explicit GgufParser(const FileReader& file) : file_(file) {}

  absl::StatusOr<GgufHeader> Parse() {
    RETURN_IF_ERROR(ParseCounts());
    RETURN_IF_ERROR(ParseValues());
    RETURN_IF_ERROR(ParseTensors());
    RETURN_IF_ERROR(PlaceTensors());
    FillViews();
    RETURN_IF_ERROR(IndexValues());
    RETURN_IF_ERROR(IndexTensors());
    return std::move(header_);
  }

 private:
  // A string inside the header, kept as an offset because the header still grows.
  struct Text {
    size_t offset = 0;
    size_t size = 0;
  };

  absl::Status Malformed(const std::string& message) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", message));
  }

  // Makes bytes [cursor_, cursor_ + size) present. `field` names them in the message.
  absl::Status Need(uint64_t size, const char* field) {
    const uint64_t remaining = file_.size_bytes() - cursor_;
    if (size > remaining) {
      return Malformed(absl::StrCat(field, " at byte ", cursor_, ": expected ", size,
                                    " more bytes, got ", remaining, ": the file is truncated"));
    }
    const uint64_t end = cursor_ + size;
    if (end > kMaxHeaderBytes) {
      return Malformed(absl::StrCat(field, ": metadata expected to end within ", kMaxHeaderBytes,
                                    " bytes, got at least ", end));
    }
    if (end <= header_.bytes.size()) return absl::OkStatus();
    const size_t old_size = header_.bytes.size();
    const uint64_t grown = std::max<uint64_t>(end, old_size + kReadAheadBytes);
    header_.bytes.resize(std::min(grown, file_.size_bytes()));
    return file_.Read(old_size, std::span(header_.bytes).subspan(old_size));
  }

  template <typename T>
  absl::StatusOr<T> Take(const char* field) {
    RETURN_IF_ERROR(Need(sizeof(T), field));
    const T value = Load<T>(&header_.bytes[cursor_]);
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
    return {reinterpret_cast<const char*>(header_.bytes.data()) + text.offset, text.size};
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
          file_.path(), ": version: expected a little-endian file, got a big-endian one"));
    }
    if (version != 2 && version != 3) {
      return absl::UnimplementedError(
          absl::StrCat(file_.path(), ": version: expected 2 or 3, got ", version));
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
    GgufValue value;
    ASSIGN_OR_RETURN(value.type, TakeType("metadata type"));
    if (value.type == GgufType::kArray) {
      RETURN_IF_ERROR(ParseArray(&value));
    } else {
      value.offset = cursor_;
      RETURN_IF_ERROR(SkipElements(value.type, 1));
    }
    if (View(key) == kAlignmentKey) RETURN_IF_ERROR(SetAlignment(value));
    header_.values.push_back(value);
    keys_.push_back(key);
    return absl::OkStatus();
  }

  absl::Status ParseArray(GgufValue* value) {
    ASSIGN_OR_RETURN(value->element_type, TakeType("array element type"));
    if (value->element_type == GgufType::kArray) {
      return Malformed("array element type: expected a scalar or string, got array");
    }
    ASSIGN_OR_RETURN(value->count, Take<uint64_t>("array length"));
    value->offset = cursor_;
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
      const auto value = static_cast<uint8_t>(header_.bytes[i]);
      if (value > 1) {
        return Malformed(absl::StrCat("bool at byte ", i, ": expected 0 or 1, got ", value));
      }
    }
    return absl::OkStatus();
  }

  absl::Status SetAlignment(const GgufValue& value) {
    if (value.type != GgufType::kUint32) {
      return Malformed(absl::StrCat(kAlignmentKey, ": expected a u32, got ", TypeName(value.type)));
    }
    alignment_ = Load<uint32_t>(&header_.bytes[value.offset]);
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
    header_.tensors.push_back(tensor);
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
      return absl::UnimplementedError(absl::StrCat(file_.path(), ": tensor ", Quoted(name),
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
    if (!header_.tensors.empty()) {
      data_start = *CheckedAlign(cursor_, alignment_);
      RETURN_IF_ERROR(Need(data_start - cursor_, "padding before the tensor data"));
    }
    uint64_t relative = 0;
    for (size_t i = 0; i < header_.tensors.size(); ++i) {
      GgufTensor& tensor = header_.tensors[i];
      if (tensor.file_offset != relative) {
        return Malformed(absl::StrCat("tensor ", Quoted(View(names_[i])), ": expected offset ",
                                      relative, ", got ", tensor.file_offset));
      }
      const std::optional<uint64_t> begin = CheckedAdd(data_start, relative);
      const std::optional<uint64_t> end =
          begin ? CheckedAdd(*begin, tensor.size_bytes) : std::nullopt;
      if (!end || *end > file_.size_bytes()) {
        return Malformed(absl::StrCat("tensor ", Quoted(View(names_[i])), ": expected ",
                                      tensor.size_bytes, " bytes at ", data_start + relative,
                                      ", got a file of ", file_.size_bytes(),
                                      " bytes: it is truncated"));
      }
      tensor.file_offset = *begin;
      const std::optional<uint64_t> next = CheckedAlign(relative + tensor.size_bytes, alignment_);
      if (!next) return Malformed("tensor data: expected a size below 2^64 bytes");
      relative = *next;
    }
    header_.bytes.resize(data_start);
    header_.bytes.shrink_to_fit();
    return absl::OkStatus();
  }

  void FillViews() {
    for (size_t i = 0; i < keys_.size(); ++i) header_.values[i].key = View(keys_[i]);
    for (size_t i = 0; i < names_.size(); ++i) header_.tensors[i].name = View(names_[i]);
  }

  // Sorted, not hashed: a hostile file can make no lookup slow.
  absl::Status IndexValues() {
    auto& values = header_.values;
    std::sort(values.begin(), values.end(),
              [](const auto& a, const auto& b) { return a.key < b.key; });
    const auto twin = std::adjacent_find(values.begin(), values.end(),
                                         [](auto& a, auto& b) { return a.key == b.key; });
    if (twin == values.end()) return absl::OkStatus();
    return Malformed(
        absl::StrCat("metadata key ", Quoted(twin->key), ": expected once, got twice"));
  }

  absl::Status IndexTensors() {
    auto& order = header_.tensors_by_name;
    const auto name = [this](uint32_t i) { return header_.tensors[i].name; };
    order.resize(header_.tensors.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return name(a) < name(b); });
    const auto twin = std::adjacent_find(
        order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return name(a) == name(b); });
    if (twin == order.end()) return absl::OkStatus();
    return Malformed(absl::StrCat("tensor ", Quoted(name(*twin)), ": expected once, got twice"));
  }

  const FileReader& file_;
  GgufHeader header_;
  size_t cursor_ = 0;
  uint64_t num_tensors_ = 0;
  uint64_t num_values_ = 0;
  uint64_t alignment_ = kDefaultAlignment;
  std::vector<Text> keys_;   // of header_.values, until it is sorted
  std::vector<Text> names_;  // of header_.tensors
};

}  // namespace

const char* TypeName(GgufType type) {
  constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                    "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

size_t FixedBytes(GgufType type) {
  constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kBytes[static_cast<size_t>(type)];
}

absl::StatusOr<GgufHeader> ParseGgufHeader(const FileReader& file) {
  return GgufParser(file).Parse();
}

}  // namespace tessera
