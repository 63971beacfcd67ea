#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dtype.h"
#include "kernels/quant_blocks.h"

// How the CPU backend lays out a weight matrix.
//
// A panel is 32 output channels (rows of W). Inside it vectors run over channels, so that K is
// never split and an output has the same chain of operations whatever the vector width or the
// number of rows (docs/numerics.md, CPU).
//
// Float types: [k][32 channels] elements.
// Quantised types: chunks of 8 blocks, each a header (K-quants: the f16 scales of the block of 256)
// and up to 8 blocks of 32 elements along K. A block holds, one after the other,
//
//   quants   Q8_0: [16 pairs][32 channels][2] int8. Else nibbles, [4 words][32 channels] uint32:
//            word t's low half has elements 8t, 8t+2, 8t+4, 8t+6 and its high half the odd ones, so
//            that shift and mask give int16 pairs of neighbours, as multiply-add instructions eat.
//   high     Q5: [32 channels] uint32, pair s in bit s of each half. Q6_K: [2 words][32 channels],
//            pair s in bits 2 (s % 8) and up of each half of word s / 8.
//   scales   d [32] f16, m [32] f16 | K-quants: scale [32] u8, min [32] u8 | Q6_K: scale [2][32] s8
//
// Nibbles of Q4_0 and Q5_0 are in two's complement; Q6_K keeps the file's offset of 32.

namespace tessera {

inline constexpr int kPanelChannels = 32;
inline constexpr int kChunkBlocks = 8;

enum class QuantKind : uint8_t { kNibbles, kFiveBits, kSixBits, kBytes };
enum class ScaleKind : uint8_t { kHalf, kHalfMinimum, kSuper, kSuperTwo };

// Byte offsets inside one block of a panel, and sizes.
struct BlockLayout {
  QuantKind quants = QuantKind::kNibbles;
  ScaleKind scales = ScaleKind::kHalf;
  bool is_signed = false;
  int header_bytes = 0;  // once every kChunkBlocks
  int high_offset = 0;
  int scales_offset = 0;
  int block_bytes = 0;
};

constexpr int QuantBytes(QuantKind kind) {
  return kPanelChannels * (kind == QuantKind::kBytes ? kQuantBlock : kQuantBlock / 2);
}

constexpr int HighBytes(QuantKind kind) {
  return kind == QuantKind::kFiveBits  ? kPanelChannels * 4
         : kind == QuantKind::kSixBits ? kPanelChannels * 8
                                       : 0;
}

constexpr BlockLayout MakeLayout(QuantKind quants, ScaleKind scales, bool is_signed) {
  BlockLayout layout;
  layout.quants = quants;
  layout.scales = scales;
  layout.is_signed = is_signed;
  layout.header_bytes = scales == ScaleKind::kSuper      ? kPanelChannels * 4
                        : scales == ScaleKind::kSuperTwo ? kPanelChannels * 2
                                                         : 0;
  layout.high_offset = QuantBytes(quants);
  layout.scales_offset = layout.high_offset + HighBytes(quants);
  layout.block_bytes =
      layout.scales_offset + kPanelChannels * (scales == ScaleKind::kHalfMinimum ? 4 : 2);
  return layout;
}

// REQUIRES: IsQuantized(type).
constexpr BlockLayout LayoutOf(DType type) {
  switch (type) {
    case DType::kQ8_0:
      return MakeLayout(QuantKind::kBytes, ScaleKind::kHalf, true);
    case DType::kQ4_0:
      return MakeLayout(QuantKind::kNibbles, ScaleKind::kHalf, true);
    case DType::kQ4_1:
      return MakeLayout(QuantKind::kNibbles, ScaleKind::kHalfMinimum, false);
    case DType::kQ5_0:
      return MakeLayout(QuantKind::kFiveBits, ScaleKind::kHalf, true);
    case DType::kQ5_1:
      return MakeLayout(QuantKind::kFiveBits, ScaleKind::kHalfMinimum, false);
    case DType::kQ4_K:
      return MakeLayout(QuantKind::kNibbles, ScaleKind::kSuper, false);
    case DType::kQ5_K:
      return MakeLayout(QuantKind::kFiveBits, ScaleKind::kSuper, false);
    case DType::kQ6_K:
      return MakeLayout(QuantKind::kSixBits, ScaleKind::kSuperTwo, false);
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      break;
  }
  return {};
}

constexpr int ChunkBytes(const BlockLayout& layout) {
  return layout.header_bytes + kChunkBlocks * layout.block_bytes;
}

// Bytes of a panel of a matrix with `cols` columns; a multiple of 64.
size_t PanelBytes(DType type, int64_t cols);

// Puts one channel's block in its place; the bytes must be zero before. Block `index` is counted
// along K from the panel's start.
void WritePanelBlock(DType type, const QuantBlock& block, int channel, int64_t index,
                     uint8_t* panel);
// The inverse.
QuantBlock ReadPanelBlock(DType type, const uint8_t* panel, int channel, int64_t index);

}  // namespace tessera
