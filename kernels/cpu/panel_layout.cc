#include "kernels/cpu/panel_layout.h"

#include <cstring>

namespace tessera {
namespace {

constexpr int kPairs = kQuantBlock / 2;  // int16 pairs of neighbours along K

template <typename T>
T Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

template <typename T>
void Store(T value, uint8_t* bytes) {
  std::memcpy(bytes, &value, sizeof value);
}

// Where word `index` of `channel` starts, in an array of [words][32 channels] uint32.
int64_t WordOffset(int index, int channel) { return (index * kPanelChannels + channel) * 4; }

int64_t ByteOffset(int pair, int channel) { return (pair * kPanelChannels + channel) * 2; }

// Byte is uint8_t to write, const uint8_t to read.
template <typename Byte>
struct BlockPlace {
  Byte* header;
  Byte* block;
};

template <typename Byte>
BlockPlace<Byte> Locate(const BlockLayout& layout, Byte* panel, int64_t index) {
  Byte* chunk = panel + (index / kChunkBlocks) * ChunkBytes(layout);
  return {chunk, chunk + layout.header_bytes + (index % kChunkBlocks) * layout.block_bytes};
}

uint32_t StoredQuant(const BlockLayout& layout, int8_t q) {
  return static_cast<uint32_t>(layout.quants == QuantKind::kSixBits ? q + 32 : q);
}

void WriteNibbles(const BlockLayout& layout, const QuantBlock& source, int channel,
                  uint8_t* block) {
  for (int word_index = 0; word_index < 4; ++word_index) {
    uint32_t word = 0;
    for (int i = 0; i < 8; ++i) {
      const uint32_t nibble = StoredQuant(layout, source.q[word_index * 8 + i]) & 15;
      word |= nibble << (4 * (i / 2) + 16 * (i % 2));
    }
    Store(word, block + WordOffset(word_index, channel));
  }
}

void WriteHighBits(const BlockLayout& layout, const QuantBlock& source, int channel,
                   uint8_t* block) {
  const int bits = layout.quants == QuantKind::kFiveBits ? 1 : 2;
  const int pairs_per_word = 16 / bits;
  uint32_t words[2] = {};
  for (int i = 0; i < kQuantBlock; ++i) {
    const int pair = i / 2;
    const uint32_t high = (StoredQuant(layout, source.q[i]) >> 4) & ((1u << bits) - 1);
    words[pair / pairs_per_word] |= high << (bits * (pair % pairs_per_word) + 16 * (i % 2));
  }
  for (int i = 0; i < bits; ++i) {
    Store(words[i], block + layout.high_offset + WordOffset(i, channel));
  }
}

void WriteScales(const BlockLayout& layout, const QuantBlock& source, int channel,
                 const BlockPlace<uint8_t>& place) {
  uint8_t* scales = place.block + layout.scales_offset;
  switch (layout.scales) {
    case ScaleKind::kHalfMinimum:
      Store(source.m_half, scales + 2 * (kPanelChannels + channel));
      [[fallthrough]];
    case ScaleKind::kHalf:
      Store(source.d_half, scales + 2 * channel);
      break;
    case ScaleKind::kSuper:
      Store(source.d_half, place.header + 2 * channel);
      Store(source.m_half, place.header + 2 * (kPanelChannels + channel));
      Store(source.scale[0], scales + channel);
      Store(source.min, scales + kPanelChannels + channel);
      break;
    case ScaleKind::kSuperTwo:
      Store(source.d_half, place.header + 2 * channel);
      Store(source.scale[0], scales + channel);
      Store(source.scale[1], scales + kPanelChannels + channel);
      break;
  }
}

void ReadScales(const BlockLayout& layout, int channel, const BlockPlace<const uint8_t>& place,
                QuantBlock* block) {
  const uint8_t* scales = place.block + layout.scales_offset;
  const bool is_super = layout.scales == ScaleKind::kSuper || layout.scales == ScaleKind::kSuperTwo;
  const uint8_t* halves = is_super ? place.header : scales;
  block->d_half = Load<uint16_t>(halves + 2 * channel);
  if (layout.scales == ScaleKind::kHalfMinimum || layout.scales == ScaleKind::kSuper) {
    block->m_half = Load<uint16_t>(halves + 2 * (kPanelChannels + channel));
  }
  if (layout.scales == ScaleKind::kSuper) {
    block->scale.fill(Load<int8_t>(scales + channel));
    block->min = scales[kPanelChannels + channel];
  } else if (layout.scales == ScaleKind::kSuperTwo) {
    block->scale = {Load<int8_t>(scales + channel),
                    Load<int8_t>(scales + kPanelChannels + channel)};
  }
}

int ReadHighBits(const BlockLayout& layout, const uint8_t* block, int channel, int element) {
  if (layout.quants == QuantKind::kNibbles) return 0;
  const int bits = layout.quants == QuantKind::kFiveBits ? 1 : 2;
  const int pairs_per_word = 16 / bits;
  const int pair = element / 2;
  const auto word =
      Load<uint32_t>(block + layout.high_offset + WordOffset(pair / pairs_per_word, channel));
  return static_cast<int>(word >> (bits * (pair % pairs_per_word) + 16 * (element % 2))) &
         ((1 << bits) - 1);
}

int8_t ReadQuant(const BlockLayout& layout, const uint8_t* block, int channel, int element) {
  if (layout.quants == QuantKind::kBytes) {
    return Load<int8_t>(block + ByteOffset(element / 2, channel) + element % 2);
  }
  const auto word = Load<uint32_t>(block + WordOffset(element / 8, channel));
  const int nibble = static_cast<int>(word >> (4 * (element % 8 / 2) + 16 * (element % 2))) & 15;
  const int q = nibble | (ReadHighBits(layout, block, channel, element) << 4);
  if (layout.quants == QuantKind::kSixBits) return static_cast<int8_t>(q - 32);
  const int sign_bit = layout.quants == QuantKind::kFiveBits ? 16 : 8;
  return static_cast<int8_t>(layout.is_signed ? (q ^ sign_bit) - sign_bit : q);
}

}  // namespace

size_t PanelBytes(DType type, int64_t cols) {
  if (!IsQuantized(type)) {
    const auto bytes = static_cast<size_t>(cols) * kPanelChannels * BlockBytes(type);
    return (bytes + 63) / 64 * 64;
  }
  const BlockLayout layout = LayoutOf(type);
  const int64_t num_blocks = cols / kQuantBlock;
  const int64_t num_chunks = (num_blocks + kChunkBlocks - 1) / kChunkBlocks;
  return static_cast<size_t>(num_chunks * layout.header_bytes + num_blocks * layout.block_bytes);
}

void WritePanelBlock(DType type, const QuantBlock& block, int channel, int64_t index,
                     uint8_t* panel) {
  const BlockLayout layout = LayoutOf(type);
  const BlockPlace<uint8_t> place = Locate(layout, panel, index);
  if (layout.quants == QuantKind::kBytes) {
    for (int pair = 0; pair < kPairs; ++pair) {
      std::memcpy(place.block + ByteOffset(pair, channel), &block.q[2 * pair], 2);
    }
  } else {
    WriteNibbles(layout, block, channel, place.block);
    if (layout.quants != QuantKind::kNibbles) WriteHighBits(layout, block, channel, place.block);
  }
  WriteScales(layout, block, channel, place);
}

QuantBlock ReadPanelBlock(DType type, const uint8_t* panel, int channel, int64_t index) {
  const BlockLayout layout = LayoutOf(type);
  const BlockPlace<const uint8_t> place = Locate(layout, panel, index);
  QuantBlock block;
  ReadScales(layout, channel, place, &block);
  for (int i = 0; i < kQuantBlock; ++i) block.q[i] = ReadQuant(layout, place.block, channel, i);
  return block;
}

}  // namespace tessera
