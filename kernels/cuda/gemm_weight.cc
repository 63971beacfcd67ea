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

// Where column `col` of a tile lies among the columns of its row's four lanes.
struct LaneColumn {
  int t;      // lane 4 * row + t
  int step;   // k16
  int index;  // of the step's four columns
};

LaneColumn FindLaneColumn(int col) {
  const int in_step = col % 16;
  return {in_step % 8 / 2, col / 16, in_step / 8 * 2 + in_step % 2};
}

void PutQuant(DType type, int row, int col, int quant, uint8_t* tile) {
  const auto [t, step, index] = FindLaneColumn(col);
  const int lane = 4 * row + t;
  if (QuantBits(type) == 8) {
    tile[lane * 16 + step * 4 + index] = static_cast<uint8_t>(quant + 128);
    return;
  }
  // Q4_0's quants lie around 0.
  const auto nibble = static_cast<uint32_t>(quant + (type == DType::kQ4_0 ? 8 : 0));
  const int pair = step % 2 * 2 + index / 2;
  uint32_t word;
  std::memcpy(&word, tile + lane * 8 + step / 2 * 4, sizeof word);
  word |= nibble << (4 * pair + 16 * (index % 2));
  std::memcpy(tile + lane * 8 + step / 2 * 4, &word, sizeof word);
}

void PutScales(DType type, const QuantBlock& block, int block_in_tile, int row, uint8_t* scales) {
  const int entry = block_in_tile * kPanelRows + row;
  const auto put_half = [&](int index, uint16_t half) {
    std::memcpy(scales + 2 * index, &half, sizeof half);
  };
  if (type == DType::kQ4_K) {
    scales[2 * entry] = static_cast<uint8_t>(block.scale[0]);
    scales[2 * entry + 1] = block.min;
  } else if (type == DType::kQ4_1) {
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
