#include "kernels/cuda/gemm_weight.h"

#include <cstring>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/half_bits.h"
#include "kernels/dequantize.h"
#include "kernels/quant_blocks.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr int kBlocksPerTile = kTileCols / kQuantBlock;

// Puts the quant of a column of a tile into its lane's words.
void PutQuant(DType type, int row, int col, int quant, uint8_t* tile) {
  const int bits = QuantBits(type);
  const int in_step = col % 16;
  const int lane = 4 * row + in_step % 8 / 2;
  const int steps_per_word = 8 / bits;
  const int word_index = col / 16 / steps_per_word;
  const int pair = col / 16 % steps_per_word * 2 + in_step / 8;
  uint8_t* address = tile + lane * (kTileCols / 4 * bits / 8) + 4 * word_index;
  uint32_t word;
  std::memcpy(&word, address, sizeof word);
  const int offset = bits == 8 ? 128 : type == DType::kQ4_0 ? 8 : 0;
  word |= static_cast<uint32_t>(quant + offset) << (bits * pair + 16 * (in_step % 2));
  std::memcpy(address, &word, sizeof word);
}

void PutScales(DType type, const QuantBlock& block, int block_in_tile, int row, uint8_t* scales) {
  const int entry = block_in_tile * kPanelRows + row;
  const auto put_half = [&](int index, uint16_t half) {
    std::memcpy(scales + 2 * index, &half, sizeof half);
  };
  if (HasSuperScales(type)) {
    scales[2 * entry] = static_cast<uint8_t>(block.scale[0]);
    scales[2 * entry + 1] =
        QuantHasMinimum(type) ? block.min : static_cast<uint8_t>(block.scale[1]);
  } else if (HasHalfMinimum(type)) {
    put_half(2 * entry, block.d_half);
    put_half(2 * entry + 1, block.m_half);
  } else {
    put_half(entry, block.d_half);
  }
}

void PackQuantBlock(const WeightView& weight, const QuantBlock& block, int64_t row, int64_t index,
                    uint8_t* image) {
  const int panel = static_cast<int>(row / kPanelRows);
  const int row_in_panel = static_cast<int>(row % kPanelRows);
  const int block_in_tile = static_cast<int>(index % kBlocksPerTile);
  uint8_t* tile = image + TileOffset(weight, panel, static_cast<int>(index / kBlocksPerTile));
  for (int i = 0; i < kQuantBlock; ++i) {
    PutQuant(weight.type, row_in_panel, block_in_tile * kQuantBlock + i, block.q[i], tile);
  }
  PutScales(weight.type, block, block_in_tile, row_in_panel, tile + TileQuantBytes(weight.type));
  if (!HasSuperScales(weight.type)) return;
  const int super = static_cast<int>(index * kQuantBlock / kSuperCols);
  uint8_t* d = image + SuperOffset(weight, panel, super) + 4 * row_in_panel;
  std::memcpy(d, &block.d_half, 2);
  std::memcpy(d + 2, &block.m_half, 2);
}

void PackFloatRow(const WeightView& weight, DType file_type, const std::byte* row, std::byte* out) {
  const auto cols = static_cast<size_t>(weight.cols);
  if (weight.type == file_type) {
    std::memcpy(out, row, RowBytes(file_type, weight.cols));
    return;
  }
  std::vector<float> values(cols);
  DequantizeRow(file_type, row, weight.cols, values.data());
  for (size_t i = 0; i < cols; ++i) {
    const uint16_t bits =
        weight.type == DType::kBf16 ? FloatToBf16Bits(values[i]) : FloatToFp16Bits(values[i]);
    std::memcpy(out + 2 * i, &bits, sizeof bits);
  }
}

}  // namespace

size_t WeightBytes(const WeightView& weight) {
  if (!IsQuantized(weight.type)) {
    return static_cast<size_t>(weight.rows) * RowBytes(weight.type, weight.cols);
  }
  const int num_panels = weight.num_panels();
  return static_cast<size_t>(HasSuperScales(weight.type) ? SuperOffset(weight, num_panels, 0)
                                                         : TileOffset(weight, num_panels, 0));
}

void PackWeightRows(const WeightView& weight, DType file_type, int64_t first_row, int64_t num_rows,
                    const std::byte* rows, std::byte* image) {
  CHECK_LE(first_row + num_rows, int64_t{weight.rows});
  const size_t file_row_bytes = RowBytes(file_type, weight.cols);
  for (int64_t row = first_row; row < first_row + num_rows; ++row, rows += file_row_bytes) {
    if (!IsQuantized(weight.type)) {
      PackFloatRow(weight, file_type, rows,
                   image + static_cast<size_t>(row) * RowBytes(weight.type, weight.cols));
      continue;
    }
    for (int64_t index = 0; index < weight.cols / kQuantBlock; ++index) {
      PackQuantBlock(weight, DecodeQuantBlock(file_type, rows, index), row, index,
                     reinterpret_cast<uint8_t*>(image));
    }
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
