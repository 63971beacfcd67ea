#include "tests/support/gguf_writer.h"

#include <fstream>
#include <utility>

#include "base/check.h"

namespace tessera {

uint32_t GgufTypeId(DType type) {
  switch (type) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kBf16:
      return 30;
    case DType::kQ8_0:
      return 8;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ5_0:
      return 6;
    case DType::kQ5_1:
      return 7;
    case DType::kQ4_K:
      return 12;
    case DType::kQ5_K:
      return 13;
    case DType::kQ6_K:
      return 14;
  }
  return 0;
}

ByteWriter& GgufWriter::AddKey(std::string_view key, GgufType type) {
  ++num_values_;
  return values_.PutText(key).PutType(type);
}

ByteWriter& GgufWriter::AddArrayKey(std::string_view key, GgufType element_type, size_t count) {
  return AddKey(key, GgufType::kArray).PutType(element_type).Put(uint64_t{count});
}

void GgufWriter::Add(std::string_view key, uint32_t value) {
  AddKey(key, GgufType::kUint32).Put(value);
}
void GgufWriter::Add(std::string_view key, uint64_t value) {
  AddKey(key, GgufType::kUint64).Put(value);
}
void GgufWriter::Add(std::string_view key, float value) {
  AddKey(key, GgufType::kFloat32).Put(value);
}
void GgufWriter::Add(std::string_view key, bool value) {
  AddKey(key, GgufType::kBool).Put(uint8_t{value});
}
void GgufWriter::Add(std::string_view key, std::string_view value) {
  AddKey(key, GgufType::kString).PutText(value);
}
void GgufWriter::Add(std::string_view key, std::span<const std::string> values) {
  ByteWriter& writer = AddArrayKey(key, GgufType::kString, values.size());
  for (const std::string& value : values) writer.PutText(value);
}
void GgufWriter::Add(std::string_view key, std::span<const int32_t> values) {
  ByteWriter& writer = AddArrayKey(key, GgufType::kInt32, values.size());
  for (int32_t value : values) writer.Put(value);
}
void GgufWriter::Add(std::string_view key, std::span<const float> values) {
  ByteWriter& writer = AddArrayKey(key, GgufType::kFloat32, values.size());
  for (float value : values) writer.Put(value);
}

void GgufWriter::AddTensor(std::string_view name, DType type, std::vector<int64_t> dims,
                           std::string data) {
  tensors_.push_back({std::string(name), type, std::move(dims), std::move(data)});
}

std::string GgufWriter::Build() const {
  const bool has_alignment = alignment != 32;
  ByteWriter file;
  file.PutBytes("GGUF").Put(version).Put(uint64_t{tensors_.size()});
  file.Put(num_values_ + (has_alignment ? 1 : 0));
  if (has_alignment) {
    file.PutText("general.alignment").PutType(GgufType::kUint32).Put(alignment);
  }
  file.PutBytes(values_.bytes());
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    file.PutText(tensor.name).Put(static_cast<uint32_t>(tensor.dims.size()));
    for (int64_t dim : tensor.dims) file.Put(dim);
    file.Put(GgufTypeId(tensor.type)).Put(offset);
    offset += (tensor.data.size() + alignment - 1) / alignment * alignment;
  }
  for (const Tensor& tensor : tensors_) file.PadTo(alignment).PutBytes(tensor.data);
  return file.bytes();
}

void WriteFile(const std::string& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  CHECK(!file.fail()) << "cannot write " << path;
}

}  // namespace tessera
