#pragma once

#include <cstdint>

#include "kernels/cpu/panel_layout.h"

// What one instruction set brings to CpuLinear: a table of plain functions. All tables compute the
// same bits. `sums` is always [rows][32 channels] and is added to, blocks ascending.

namespace tessera {

inline constexpr int kMaxTileRows = 16;
inline constexpr int kNumDTypes = sizeof(kAllDTypes) / sizeof(kAllDTypes[0]);

// A few rows of quantised activations, interleaved by block: the kernels walk it front to back.
struct QuantTile {
  const int16_t* q;         // [blocks][rows][block_words]
  const float* scale;       // [blocks][rows]
  const float* scaled_sum;  // [blocks][rows]: scale * (sum of q)
};

// Tiles of equally many rows.
struct QuantTiles {
  QuantTile first;
  int num_tiles;
  int64_t stride;  // row blocks from one to the next
};

// Memory that will be wanted next, to be fetched meanwhile.
struct CacheLines {
  const uint8_t* begin;
  int num_bytes;
};

// sums += W x over `num_blocks` blocks of a packed panel.
using PackedDotKernel = void (*)(const uint8_t* panel, int num_blocks, const QuantTile& x,
                                 float* sums);
// Expands blocks of a panel; `chunk` points at a chunk's header, or where there is none at a block.
using UnpackKernel = void (*)(const uint8_t* chunk, int num_blocks, uint8_t* out);
// sums += W x over unpacked blocks. sums: of all tiles.
using UnpackedDotKernel = void (*)(const uint8_t* blocks, int num_blocks, const QuantTiles& x,
                                   CacheLines next, float* sums);
// sums = W x for a float panel; rows of x lie x_stride floats apart.
using FloatDotKernel = void (*)(const uint8_t* panel, int64_t cols, const float* x,
                                int64_t x_stride, float* sums);
// Quantises one row's blocks; block b goes to q + b * q_stride, scale[b * scale_stride], ...
using QuantizeKernel = void (*)(const float* x, int num_blocks, int64_t q_stride,
                                int64_t scale_stride, int16_t* q, float* scale, float* scaled_sum);

// An unpacked block: [16 pairs][32 channels] int16 pairs (AMX: bf16), then d [32] fp32, and m [32]
// or, for Q6_K, the second d [32].
inline constexpr int kUnpackedQuantBytes = kQuantBlock * kPanelChannels * 2;
inline constexpr int kUnpackedBlockBytes = kUnpackedQuantBytes + 2 * kPanelChannels * 4;
inline constexpr int kMaxUnpackedBlocks = 9;  // at a time: 20.7 KB
static_assert(kMaxUnpackedBlocks >= kChunkBlocks);

// Unpacked, K-quants with a minimum look like Q4_1.
constexpr ScaleKind UnpackedKind(ScaleKind kind) {
  return kind == ScaleKind::kSuper ? ScaleKind::kHalfMinimum : kind;
}

// Entries are indexed by DType and by rows - 1, up to tile_rows; those that make no
// sense are null.
struct LinearKernels {
  int tile_rows = 0;
  // Up to here weights are unpacked in registers, anew for each tile; above, some blocks at a time
  // into the L1 cache, for all tiles.
  int max_direct_rows = 0;
  // Blocks to unpack at a time, so that they stay in the L1 cache beside the activations and sums
  // of tiles of rows. K-quants: kChunkBlocks.
  int max_unpacked_blocks = kMaxUnpackedBlocks;
  int block_words = kQuantBlock;  // of a quantised row's block: its int16, or two bf16 for each
  QuantizeKernel quantize = nullptr;
  void (*release)() = nullptr;  // a worker calls it after its products, unless null
  PackedDotKernel dot_packed[kNumDTypes][kMaxTileRows] = {};
  UnpackKernel unpack[kNumDTypes] = {};
  UnpackedDotKernel dot_unpacked[kNumDTypes][kMaxTileRows] = {};
  FloatDotKernel dot_float[kNumDTypes][kMaxTileRows] = {};
};

extern const LinearKernels kLinearPortable;
extern const LinearKernels kLinearAvx2;
extern const LinearKernels kLinearAvx512;
extern const LinearKernels kLinearAvx512Vnni;
extern const LinearKernels kLinearAmx;  // quantised weights alone

// The quantisation's constants (docs/numerics.md, CPU).
inline constexpr float kActivationMax = 32639.0f;
inline constexpr float kTinyActivation = 0x1p-100f;  // a block below it is taken as zero
inline constexpr uint32_t kFloatInfinityBits = 0x7F800000;
inline constexpr uint32_t kFloatNanBits = 0x7FC00000;

}  // namespace tessera
