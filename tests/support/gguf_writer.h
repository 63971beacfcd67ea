#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/dtype.h"
#include "model/gguf_header.h"

namespace tessera {

// Appends little-endian fields to a string of bytes: enough to write a GGUF file, or a broken one.
class ByteWriter {
 public:
  template <typename T>
  ByteWriter& Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  ByteWriter& PutType(GgufType type) { return Put(static_cast<uint32_t>(type)); }
  ByteWriter& PutText(std::string_view text) {
    Put(uint64_t{text.size()});
    return PutBytes(text);
  }
  ByteWriter& PutBytes(std::string_view bytes) {
    bytes_.append(bytes);
    return *this;
  }
  ByteWriter& PadTo(size_t alignment) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// The type's number in a GGUF file.
uint32_t GgufTypeId(DType type);

// Collects metadata and tensors and lays them out as a GGUF file. Keys and names are written as
// given, in order: twice the same is twice in the file.
class GgufWriter {
 public:
  uint32_t version = 3;
  uint32_t alignment = 32;  // other than 32: written as general.alignment

  void Add(std::string_view key, uint32_t value);
  void Add(std::string_view key, uint64_t value);
  void Add(std::string_view key, float value);
  void Add(std::string_view key, bool value);
  void Add(std::string_view key, const char* value) { Add(key, std::string_view(value)); }
  void Add(std::string_view key, std::string_view value);
  void Add(std::string_view key, std::span<const std::string> values);
  void Add(std::string_view key, std::span<const int32_t> values);
  void Add(std::string_view key, std::span<const float> values);

  // dims: from the contiguous one outwards. data: as the file holds it.
  void AddTensor(std::string_view name, DType type, std::vector<int64_t> dims, std::string data);

  std::string Build() const;

 private:
  struct Tensor {
    std::string name;
    DType type;
    std::vector<int64_t> dims;
    std::string data;
  };

  ByteWriter& AddKey(std::string_view key, GgufType type);
  ByteWriter& AddArrayKey(std::string_view key, GgufType element_type, size_t count);

  uint64_t num_values_ = 0;
  ByteWriter values_;
  std::vector<Tensor> tensors_;
};

// Writes a whole file. CHECKs that it worked: for tests.
void WriteFile(const std::string& path, std::string_view bytes);

}  // namespace tessera
