#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/instr.h"
#include "kernels/dtype.h"

// How weights lie in device memory, for GEMM and embedding alike.
//
// A float weight is row-major [rows, cols], as cuBLASLt wants it. A quantised one keeps the file's
// integers and scales, no bit lost, in panels of 8 rows (what one mma multiplies) x tiles of 64
// columns, in the order in which lanes read them; rows and columns that fill up a tile are zero.
//
//   tile: quants, for lane 4 g + t of a warp those of row g that its registers take in four k16
//         steps: in step s pair 0 is columns 16 s + 2 t and the next, pair 1 those 8 further on.
//         8 bits: 16 bytes a lane, word s is step s; pair j has its lower column in bits 8 j, the
//         other in 8 j + 16, each plus 128. 4 bits: 8 bytes a lane, word w is steps 2 w and
//         2 w + 1; their pairs j = 0 .. 3 have the lower column in bits 4 j, the other in 4 j + 16.
//         Then scales [2 blocks of 32 columns][8 rows]: Q8_0, Q4_0 d (f16); Q4_1, Q5_1 d, m (f16);
//         Q4_K, Q5_K scale, min (bytes); Q6_K scales of 16 columns (two signed bytes).
//   K-quants have besides, behind all tiles, d, dmin (f16) [panels][ceil(cols / 256)][8 rows].
//
// 5 and 6 bits are stored as 8, so that one byte's extraction serves them.

namespace tessera::TESSERA_CUDA_NAMESPACE {

inline constexpr int kPanelRows = 8;
inline constexpr int kTileCols = 64;
inline constexpr int kSuperCols = 256;  // columns that share one d of a K-quant
inline constexpr int kSuperBytes = kPanelRows * 4;

__host__ __device__ constexpr int QuantBits(DType type) {
  return type == DType::kQ4_0 || type == DType::kQ4_1 || type == DType::kQ4_K ? 4 : 8;
}
__host__ __device__ constexpr bool HasHalfMinimum(DType type) {
  return type == DType::kQ4_1 || type == DType::kQ5_1;
}
__host__ __device__ constexpr bool HasSuperScales(DType type) {
  return type == DType::kQ4_K || type == DType::kQ5_K || type == DType::kQ6_K;
}
__host__ __device__ constexpr bool QuantHasMinimum(DType type) {
  return HasHalfMinimum(type) || type == DType::kQ4_K || type == DType::kQ5_K;
}
__host__ __device__ constexpr int TileQuantBytes(DType type) {
  return kPanelRows * kTileCols * QuantBits(type) / 8;
}
__host__ __device__ constexpr int TileScaleBytes(DType type) {
  return (kTileCols / 32) * kPanelRows * (HasHalfMinimum(type) ? 4 : 2);
}
__host__ __device__ constexpr int TileBytes(DType type) {
  return TileQuantBytes(type) + TileScaleBytes(type);
}

// The type in which a weight of the file's type is stored. F32, F16 and BF16 become activations'
// type T, rounded once; Q5_0 is Q8_0 exactly.
template <typename T>
constexpr DType StoredType(DType file_type) {
  if (file_type == DType::kQ5_0) return DType::kQ8_0;
  if (IsQuantized(file_type)) return file_type;
  return std::is_same_v<T, Bf16> ? DType::kBf16 : DType::kF16;
}

// One weight in device memory. Passed to kernels by value; owns nothing.
struct WeightView {
  DType type = DType::kBf16;  // as stored
  int rows = 0;
  int cols = 0;
  const void* data = nullptr;  // aligned to 16 bytes

  __host__ __device__ constexpr int num_panels() const {
    return (rows + kPanelRows - 1) / kPanelRows;
  }
  __host__ __device__ constexpr int tiles_per_panel() const {
    return (cols + kTileCols - 1) / kTileCols;
  }
  __host__ __device__ constexpr int supers_per_panel() const {
    return (cols + kSuperCols - 1) / kSuperCols;
  }
};

// Offsets into WeightView::data of quantised weights.
__host__ __device__ __forceinline__ int64_t TileOffset(const WeightView& weight, int panel,
                                                       int tile) {
  return (int64_t{panel} * weight.tiles_per_panel() + tile) * TileBytes(weight.type);
}
__host__ __device__ __forceinline__ int64_t SuperOffset(const WeightView& weight, int panel,
                                                        int super) {
  return TileOffset(weight, weight.num_panels(), 0) +
         (int64_t{panel} * weight.supers_per_panel() + super) * kSuperBytes;
}

// Bytes of a weight's data.
size_t WeightBytes(const WeightView& weight);

// Writes rows [first_row, first_row + num_rows), which `rows` holds in the file's format,
// RowBytes(file_type, cols) apart, into `image`, a host copy of the weight's data that was zero
// before its first rows came. Rows may come in any order.
// REQUIRES: weight.type is StoredType<T>(file_type) or, for embedding tables, a float file_type.
void PackWeightRows(const WeightView& weight, DType file_type, int64_t first_row, int64_t num_rows,
                    const std::byte* rows, std::byte* image);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
