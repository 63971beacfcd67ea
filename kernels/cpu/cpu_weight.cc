#include "kernels/cpu/cpu_weight.h"

#include <cstring>

#include "base/check.h"
#include "kernels/dequantize.h"

namespace tessera {

CpuWeight::CpuWeight(DType type, int64_t rows, int64_t cols, WeightArena* arena)
    : PackedWeight(type, rows, cols),
      panel_bytes_(PanelBytes(type, cols)),
      size_bytes_(panel_bytes_ * static_cast<size_t>(num_panels())) {
  CHECK_GT(rows, 0);
  CHECK_GT(cols, 0);
  CHECK_EQ(cols % BlockElements(type), 0);
  data_ = arena->Allocate(size_bytes_);
}

void CpuWeight::PackRows(int64_t first_row, int64_t num_rows, const std::byte* data) {
  CHECK_GE(first_row, 0);
  CHECK_LE(first_row + num_rows, rows());
  const auto row_bytes = static_cast<int64_t>(RowBytes(type(), cols()));
  for (int64_t i = 0; i < num_rows; ++i) PackRow(first_row + i, data + i * row_bytes);
}

void CpuWeight::PackRow(int64_t row, const std::byte* data) {
  uint8_t* panel = MutablePanel(row / kPanelChannels);
  const auto channel = static_cast<int>(row % kPanelChannels);
  if (IsQuantized(type())) {
    for (int64_t b = 0; b < cols() / kQuantBlock; ++b) {
      WritePanelBlock(type(), DecodeQuantBlock(type(), data, b), channel, b, panel);
    }
    return;
  }
  const int bytes = BlockBytes(type());
  for (int64_t k = 0; k < cols(); ++k) {
    std::memcpy(panel + (k * kPanelChannels + channel) * bytes, data + k * bytes,
                static_cast<size_t>(bytes));
  }
}

void CpuWeight::DequantizeRowTo(int64_t row, float* out) const {
  CHECK_GE(row, 0);
  CHECK_LT(row, rows());
  const uint8_t* source = panel(row / kPanelChannels);
  const auto channel = static_cast<int>(row % kPanelChannels);
  if (IsQuantized(type())) {
    for (int64_t b = 0; b < cols() / kQuantBlock; ++b) {
      DequantizeBlock(type(), ReadPanelBlock(type(), source, channel, b), out + b * kQuantBlock);
    }
    return;
  }
  const int bytes = BlockBytes(type());
  for (int64_t k = 0; k < cols(); ++k) {
    const uint8_t* element = source + (k * kPanelChannels + channel) * bytes;
    DequantizeRow(type(), reinterpret_cast<const std::byte*>(element), 1, out + k);
  }
}

}  // namespace tessera
