#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/backend.h"
#include "kernels/cpu/panel_layout.h"
#include "kernels/cpu/weight_arena.h"

namespace tessera {

// A weight matrix in panels of 32 rows (kernels/cpu/panel_layout.h). Rows past the matrix's end, in
// the last panel, are zero. Written once, by PackRows, then read by any number of threads.
class CpuWeight final : public PackedWeight {
 public:
  // REQUIRES: cols is a multiple of BlockElements(type).
  CpuWeight(DType type, int64_t rows, int64_t cols, WeightArena* arena);

  size_t size_bytes() const override { return size_bytes_; }

  // As Backend::PackRows. Calls for different rows may run at the same time.
  void PackRows(int64_t first_row, int64_t num_rows, const std::byte* data);

  // Bit for bit what DequantizeRow gives for the row's file bytes. out: [cols].
  void DequantizeRowTo(int64_t row, float* out) const;

  int64_t num_panels() const { return (rows() + kPanelChannels - 1) / kPanelChannels; }
  const uint8_t* panel(int64_t index) const {
    return data_.get() + static_cast<size_t>(index) * panel_bytes_;
  }

 private:
  void PackRow(int64_t row, const std::byte* data);
  uint8_t* MutablePanel(int64_t index) {
    return data_.get() + static_cast<size_t>(index) * panel_bytes_;
  }

  const size_t panel_bytes_;
  const size_t size_bytes_;
  std::shared_ptr<uint8_t> data_;  // [num_panels][panel_bytes_], 64-byte aligned
};

}  // namespace tessera
