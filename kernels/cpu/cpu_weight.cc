#include "kernels/cpu/cpu_weight.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "kernels/dequantize.h"

namespace tessera {
namespace {

constexpr size_t kCacheLineBytes = 64;
constexpr size_t kHugePageBytes = size_t{2} << 20;

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Zeroed. Large blocks ask for huge pages, which save TLB misses when a step streams all weights.
uint8_t* AllocatePanels(size_t size_bytes) {
  const bool is_large = size_bytes >= kHugePageBytes;
  const size_t alignment = is_large ? kHugePageBytes : kCacheLineBytes;
  const size_t rounded = RoundUp(size_bytes, alignment);
  void* data = std::aligned_alloc(alignment, rounded);
  CHECK(data != nullptr) << "out of memory for a weight of " << size_bytes << " bytes";
  if (is_large) madvise(data, rounded, MADV_HUGEPAGE);
  std::memset(data, 0, size_bytes);
  return static_cast<uint8_t*>(data);
}

}  // namespace

void CpuWeight::Free::operator()(uint8_t* data) const { std::free(data); }

CpuWeight::CpuWeight(DType type, int64_t rows, int64_t cols)
    : PackedWeight(type, rows, cols),
      panel_bytes_(PanelBytes(type, cols)),
      size_bytes_(panel_bytes_ * static_cast<size_t>(num_panels())) {
  CHECK_GT(rows, 0);
  CHECK_GT(cols, 0);
  CHECK_EQ(cols % BlockElements(type), 0);
  data_.reset(AllocatePanels(size_bytes_));
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
