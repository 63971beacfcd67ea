#include "tests/kernels/device_io.h"

#include <string_view>

#include "kernels/cuda/half_bits.h"

namespace tessera {
namespace {

uint16_t ToBits(DType type, float value) {
  return type == DType::kBf16 ? FloatToBf16Bits(value) : FloatToFp16Bits(value);
}

float FromBits(DType type, uint16_t bits) {
  return type == DType::kBf16 ? Bf16BitsToFloat(bits) : Fp16BitsToFloat(bits);
}

DeviceBuffer UploadBytes(Backend* backend, const void* bytes, size_t size_bytes) {
  DeviceBuffer buffer = backend->Allocate(size_bytes);
  if (size_bytes > 0) backend->Upload(bytes, size_bytes, buffer.As<void>());
  return buffer;
}

DeviceBuffer AllocatePoisoned(Backend* backend, size_t size_bytes) {
  const std::vector<uint8_t> poison(size_bytes, 0xFF);
  return UploadBytes(backend, poison.data(), size_bytes);
}

}  // namespace

DType ActivationType(const Backend& backend) {
  if (backend.activation_bytes() == sizeof(float)) return DType::kF32;
  return backend.name().find(".bf16.") != std::string_view::npos ? DType::kBf16 : DType::kF16;
}

double UnitRoundoff(DType type) {
  return type == DType::kBf16 ? 0x1p-8 : type == DType::kF16 ? 0x1p-11 : 0x1p-24;
}

Floats RoundToActivations(const Backend& backend, Floats values) {
  const DType type = ActivationType(backend);
  if (type == DType::kF32) return values;
  for (float& value : values) value = FromBits(type, ToBits(type, value));
  return values;
}

DeviceBuffer UploadFloats(Backend* backend, const Floats& values) {
  return UploadBytes(backend, values.data(), values.size() * sizeof(float));
}

DeviceBuffer UploadActivations(Backend* backend, const Floats& values) {
  const DType type = ActivationType(*backend);
  if (type == DType::kF32) return UploadFloats(backend, values);
  std::vector<uint16_t> bits;
  bits.reserve(values.size());
  for (const float value : values) bits.push_back(ToBits(type, value));
  return UploadBytes(backend, bits.data(), bits.size() * sizeof(uint16_t));
}

DeviceBuffer AllocateFloats(Backend* backend, size_t size) {
  return AllocatePoisoned(backend, size * sizeof(float));
}

DeviceBuffer AllocateActivations(Backend* backend, size_t size) {
  return AllocatePoisoned(backend, size * backend->activation_bytes());
}

Floats DownloadFloats(Backend* backend, const DeviceBuffer& buffer) {
  Floats values(buffer.size_bytes() / sizeof(float));
  backend->Download(buffer.As<void>(), buffer.size_bytes(), values.data());
  backend->Synchronize();
  return values;
}

Floats DownloadActivations(Backend* backend, const DeviceBuffer& buffer) {
  const DType type = ActivationType(*backend);
  if (type == DType::kF32) return DownloadFloats(backend, buffer);
  std::vector<uint16_t> bits(buffer.size_bytes() / sizeof(uint16_t));
  backend->Download(buffer.As<void>(), buffer.size_bytes(), bits.data());
  backend->Synchronize();
  Floats values;
  values.reserve(bits.size());
  for (const uint16_t value : bits) values.push_back(FromBits(type, value));
  return values;
}

}  // namespace tessera
