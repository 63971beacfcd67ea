#include "kernels/simt/matrix_ops.h"

#include <bit>
#include <cstring>
#include <string>

namespace tessera::simt {
namespace {

#define TESSERA_INLINE inline __attribute__((always_inline))

// Both x86-64 levels multiply and add exactly alike; eight floats at once are only faster.
using Float8 = float __attribute__((vector_size(32)));

struct Tile {
  alignas(32) uint16_t a[16][16];
  alignas(32) uint16_t b[16][8];
  alignas(32) float c[16][8];
};

TESSERA_INLINE float Bf16Value(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

TESSERA_INLINE float Fp16Value(uint16_t bits) {
  const uint32_t magnitude = (uint32_t{bits} & 0x7FFFu) << 13;
  uint32_t value = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  value |= magnitude >= (0x7C00u << 13) ? 0x7F800000u : 0u;
  return std::bit_cast<float>(value | (uint32_t{bits} & 0x8000u) << 16);
}

template <float (*Value)(uint16_t), int kSize>
TESSERA_INLINE void Widen(const uint16_t* __restrict in, float* __restrict out) {
  for (int i = 0; i < kSize; ++i) out[i] = Value(in[i]);
}

template <float (*Value)(uint16_t)>
TESSERA_INLINE void MultiplyTile(Tile& tile) {
  alignas(32) float a[16][16];
  alignas(32) Float8 b[16];
  Widen<Value, 256>(tile.a[0], a[0]);
  Widen<Value, 128>(tile.b[0], reinterpret_cast<float*>(b));
  Float8* c = reinterpret_cast<Float8*>(tile.c);
  for (int row = 0; row < 16; row += 4) {
    Float8 c0 = c[row], c1 = c[row + 1], c2 = c[row + 2], c3 = c[row + 3];
    for (int k = 0; k < 16; ++k) {
      c0 += a[row][k] * b[k];
      c1 += a[row + 1][k] * b[k];
      c2 += a[row + 2][k] * b[k];
      c3 += a[row + 3][k] * b[k];
    }
    c[row] = c0;
    c[row + 1] = c1;
    c[row + 2] = c2;
    c[row + 3] = c3;
  }
}

void MultiplyBf16(Tile& tile) { MultiplyTile<Bf16Value>(tile); }
void MultiplyFp16(Tile& tile) { MultiplyTile<Fp16Value>(tile); }
__attribute__((target("avx2"))) void MultiplyBf16Avx2(Tile& tile) { MultiplyTile<Bf16Value>(tile); }
__attribute__((target("avx2"))) void MultiplyFp16Avx2(Tile& tile) { MultiplyTile<Fp16Value>(tile); }

void RequireWholeWarp(uint32_t participants) {
  if (participants != kFullWarp) {
    Block::Current().Fail("an .aligned instruction needs all 32 lanes of its warp");
  }
}

// Lane l holds, with g = l / 4 and t = l % 4: rows g and g + 8 of A and C, column g of B; of each,
// columns (rows of B) 2t and 2t + 1, for the later registers of A and B 8 further on.
void MmaWarp(WarpArguments& arguments, uint32_t participants, void (*multiply)(Tile&)) {
  RequireWholeWarp(participants);
  Tile tile;
  for (int lane = 0; lane < 32; ++lane) {
    const auto& in = *static_cast<const MmaOperands*>(arguments.in[lane]);
    const auto* c = static_cast<const float*>(arguments.out[lane]);
    const int g = lane / 4;
    const int t2 = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) std::memcpy(&tile.a[g + i % 2 * 8][t2 + i / 2 * 8], &in.a[i], 4);
    for (int i = 0; i < 2; ++i) {
      tile.b[t2 + i * 8][g] = static_cast<uint16_t>(in.b[i]);
      tile.b[t2 + i * 8 + 1][g] = static_cast<uint16_t>(in.b[i] >> 16);
    }
    std::memcpy(&tile.c[g][t2], c, 8);
    std::memcpy(&tile.c[g + 8][t2], c + 2, 8);
  }
  multiply(tile);
  for (int lane = 0; lane < 32; ++lane) {
    auto* c = static_cast<float*>(arguments.out[lane]);
    const int g = lane / 4;
    const int t2 = lane % 4 * 2;
    std::memcpy(c, &tile.c[g][t2], 8);
    std::memcpy(c + 2, &tile.c[g + 8][t2], 8);
  }
}

bool HasAvx2() {
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  return has_avx2;
}

void MmaBf16Warp(WarpArguments& arguments, uint32_t participants) {
  MmaWarp(arguments, participants, HasAvx2() ? MultiplyBf16Avx2 : MultiplyBf16);
}

void MmaFp16Warp(WarpArguments& arguments, uint32_t participants) {
  MmaWarp(arguments, participants, HasAvx2() ? MultiplyFp16Avx2 : MultiplyFp16);
}

template <int kMatrices, bool kTransposed>
void LoadMatrixWarp(WarpArguments& arguments, uint32_t participants) {
  RequireWholeWarp(participants);
  uint16_t matrix[kMatrices][8][8];
  Block& block = Block::Current();
  for (int i = 0; i < kMatrices * 8; ++i) {
    const void* row = arguments.in[i];
    if (!block.shared().Contains(row, 16) || reinterpret_cast<uintptr_t>(row) % 16 != 0) {
      block.Fail("ldmatrix: the address of lane " + std::to_string(i) +
                 " is misaligned or outside shared memory");
    }
    std::memcpy(matrix[i / 8][i % 8], row, 16);
  }
  for (int lane = 0; lane < 32; ++lane) {
    auto* registers = static_cast<uint32_t*>(arguments.out[lane]);
    const int g = lane / 4;
    const int t2 = lane % 4 * 2;
    for (int j = 0; j < kMatrices; ++j) {
      const uint32_t low = kTransposed ? matrix[j][t2][g] : matrix[j][g][t2];
      const uint32_t high = kTransposed ? matrix[j][t2 + 1][g] : matrix[j][g][t2 + 1];
      registers[j] = low | high << 16;
    }
  }
}

WarpFunction LoadMatrixFunction(int num_matrices, bool transposed) {
  switch (num_matrices) {
    case 1:
      return transposed ? LoadMatrixWarp<1, true> : LoadMatrixWarp<1, false>;
    case 2:
      return transposed ? LoadMatrixWarp<2, true> : LoadMatrixWarp<2, false>;
    default:
      return transposed ? LoadMatrixWarp<4, true> : LoadMatrixWarp<4, false>;
  }
}

}  // namespace

void LoadMatrix(const CallSite& site, uint32_t* registers, const void* row, int num_matrices,
                bool transposed) {
  Block::Current().Collective(site, kFullWarp, row, registers,
                              LoadMatrixFunction(num_matrices, transposed));
}

void MmaBf16(const CallSite& site, float* accumulator, const MmaOperands& operands) {
  Block::Current().Collective(site, kFullWarp, &operands, accumulator, &MmaBf16Warp);
}

void MmaFp16(const CallSite& site, float* accumulator, const MmaOperands& operands) {
  Block::Current().Collective(site, kFullWarp, &operands, accumulator, &MmaFp16Warp);
}

}  // namespace tessera::simt
