#include "kernels/quant_blocks.h"

#include <cstring>

#include "kernels/dequantize.h"

// Byte layouts: ggml-common.h of llama.cpp, which the GGUF format takes over.

namespace tessera {
namespace {

constexpr int kBlocksPerSuperBlock = 8;  // of 32 elements, in the K-quants' 256

uint16_t LoadU16(const uint8_t* bytes) {
  uint16_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

uint32_t LoadU32(const uint8_t* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

// 16 bytes of two nibbles: the low ones are elements 0-15, the high ones 16-31.
void DecodeNibbles(const uint8_t* bytes, QuantBlock* block) {
  for (int i = 0; i < 16; ++i) {
    block->q[i] = static_cast<int8_t>(bytes[i] & 0x0F);
    block->q[i + 16] = static_cast<int8_t>(bytes[i] >> 4);
  }
}

// Bit i of `bits` is element i's fifth.
void AddFifthBits(uint32_t bits, QuantBlock* block) {
  for (int i = 0; i < kQuantBlock; ++i) {
    block->q[i] = static_cast<int8_t>(block->q[i] | (((bits >> i) & 1) << 4));
  }
}

void Subtract(int offset, QuantBlock* block) {
  for (int8_t& q : block->q) q = static_cast<int8_t>(q - offset);
}

QuantBlock DecodeQ8_0(const uint8_t* bytes) {
  QuantBlock block;
  block.d_half = LoadU16(bytes);
  std::memcpy(block.q.data(), bytes + 2, kQuantBlock);
  return block;
}

QuantBlock DecodeQ4_0(const uint8_t* bytes) {
  QuantBlock block;
  block.d_half = LoadU16(bytes);
  DecodeNibbles(bytes + 2, &block);
  Subtract(8, &block);
  return block;
}

QuantBlock DecodeQ4_1(const uint8_t* bytes) {
  QuantBlock block;
  block.d_half = LoadU16(bytes);
  block.m_half = LoadU16(bytes + 2);
  DecodeNibbles(bytes + 4, &block);
  return block;
}

QuantBlock DecodeQ5_0(const uint8_t* bytes) {
  QuantBlock block;
  block.d_half = LoadU16(bytes);
  DecodeNibbles(bytes + 6, &block);
  AddFifthBits(LoadU32(bytes + 2), &block);
  Subtract(16, &block);
  return block;
}

QuantBlock DecodeQ5_1(const uint8_t* bytes) {
  QuantBlock block;
  block.d_half = LoadU16(bytes);
  block.m_half = LoadU16(bytes + 2);
  DecodeNibbles(bytes + 8, &block);
  AddFifthBits(LoadU32(bytes + 4), &block);
  return block;
}

// The 12 bytes of eight 6-bit (scale, min) pairs: pairs 0-3 in the low 6 bits of bytes 0-3 and 4-7;
// pairs 4-7 have their low 4 bits in bytes 8-11 and their high 2 in the tops of bytes 0-3 and 4-7.
void DecodeKScales(const uint8_t* bytes, int index, QuantBlock* block) {
  int scale = 0;
  int min = 0;
  if (index < 4) {
    scale = bytes[index] & 63;
    min = bytes[index + 4] & 63;
  } else {
    scale = (bytes[index + 4] & 0x0F) | ((bytes[index - 4] >> 6) << 4);
    min = (bytes[index + 4] >> 4) | ((bytes[index] >> 6) << 4);
  }
  block->scale.fill(static_cast<int8_t>(scale));
  block->min = static_cast<uint8_t>(min);
}

// 64 elements share 32 bytes: the even block has the low nibbles, the odd one the high ones.
void DecodeKNibbles(const uint8_t* bytes, int index, QuantBlock* block) {
  const uint8_t* pair = bytes + (index / 2) * 32;
  const int shift = (index % 2) * 4;
  for (int i = 0; i < kQuantBlock; ++i) {
    block->q[i] = static_cast<int8_t>((pair[i] >> shift) & 0x0F);
  }
}

QuantBlock DecodeQ4_K(const uint8_t* bytes, int index) {
  QuantBlock block;
  block.d_half = LoadU16(bytes);
  block.m_half = LoadU16(bytes + 2);
  DecodeKScales(bytes + 4, index, &block);
  DecodeKNibbles(bytes + 16, index, &block);
  return block;
}

QuantBlock DecodeQ5_K(const uint8_t* bytes, int index) {
  QuantBlock block;
  block.d_half = LoadU16(bytes);
  block.m_half = LoadU16(bytes + 2);
  DecodeKScales(bytes + 4, index, &block);
  DecodeKNibbles(bytes + 48, index, &block);
  const uint8_t* high = bytes + 16;  // bit b of byte i: element i of block b
  for (int i = 0; i < kQuantBlock; ++i) {
    block.q[i] = static_cast<int8_t>(block.q[i] | (((high[i] >> index) & 1) << 4));
  }
  return block;
}

// Each half (128 elements) has 64 bytes of low nibbles, 32 bytes of high bit pairs and 8 scales.
QuantBlock DecodeQ6_K(const uint8_t* bytes, int index) {
  QuantBlock block;
  block.d_half = LoadU16(bytes + 208);
  const int half = index / 4;
  const int quarter = index % 4;
  const uint8_t* low = bytes + half * 64 + (quarter % 2) * 32;
  const uint8_t* high = bytes + 128 + half * 32;
  std::memcpy(block.scale.data(), bytes + 192 + 2 * index, 2);
  for (int i = 0; i < kQuantBlock; ++i) {
    const int nibble = (low[i] >> ((quarter / 2) * 4)) & 0x0F;
    const int top = (high[i] >> (2 * quarter)) & 3;
    block.q[i] = static_cast<int8_t>((nibble | (top << 4)) - 32);
  }
  return block;
}

}  // namespace

QuantBlock DecodeQuantBlock(DType type, const std::byte* row, int64_t index) {
  const bool is_super = BlockElements(type) != kQuantBlock;
  const int64_t file_block = is_super ? index / kBlocksPerSuperBlock : index;
  const int sub = static_cast<int>(index % kBlocksPerSuperBlock);
  const auto* bytes = reinterpret_cast<const uint8_t*>(row) + file_block * BlockBytes(type);
  switch (type) {
    case DType::kQ8_0:
      return DecodeQ8_0(bytes);
    case DType::kQ4_0:
      return DecodeQ4_0(bytes);
    case DType::kQ4_1:
      return DecodeQ4_1(bytes);
    case DType::kQ5_0:
      return DecodeQ5_0(bytes);
    case DType::kQ5_1:
      return DecodeQ5_1(bytes);
    case DType::kQ4_K:
      return DecodeQ4_K(bytes, sub);
    case DType::kQ5_K:
      return DecodeQ5_K(bytes, sub);
    case DType::kQ6_K:
      return DecodeQ6_K(bytes, sub);
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      break;
  }
  return {};
}

BlockScales ScalesOf(DType type, const QuantBlock& block) {
  const float d = HalfToFloat(block.d_half);
  BlockScales scales;
  scales.d = {d * block.scale[0], d * block.scale[1]};
  if (type == DType::kQ4_1 || type == DType::kQ5_1) scales.m = HalfToFloat(block.m_half);
  if (type == DType::kQ4_K || type == DType::kQ5_K) {
    scales.m = -(HalfToFloat(block.m_half) * block.min);
  }
  return scales;
}

void DequantizeBlock(DType type, const QuantBlock& block, float* out) {
  const BlockScales scales = ScalesOf(type, block);
  for (int i = 0; i < kQuantBlock; ++i) {
    out[i] = scales.d[i / 16] * block.q[i];
    if (HasMinimum(type)) out[i] += scales.m;
  }
}

}  // namespace tessera
