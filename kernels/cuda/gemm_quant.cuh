#pragma once

#include "kernels/cuda/gemm_weight.h"

// Quantised tiles (gemm_weight.h) taken apart: what GEMM and embedding share.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// The quants of one lane in one block of 32 columns (two k16 steps), as exact integers: pair 2 s +
// h holds columns 16 s + 8 h + 2 t and the next.
template <DType kType>
__device__ __forceinline__ void LoadQuantWords(const uint8_t* tile, int lane, int block,
                                               uint32_t (&words)[QuantBits(kType) / 4]) {
  if constexpr (QuantBits(kType) == 8) {
    const uint2 both = *reinterpret_cast<const uint2*>(tile + lane * 16 + block * 8);
    words[0] = both.x;
    words[1] = both.y;
  } else {
    words[0] = *reinterpret_cast<const uint32_t*>(tile + lane * 8 + block * 4);
  }
}

// Integer `index` (0 .. 7: element index % 2 of pair index / 2) of the words.
template <DType kType>
__device__ __forceinline__ int QuantAt(const uint32_t (&words)[QuantBits(kType) / 4], int index) {
  const int shift = index % 2 * 16;
  if constexpr (QuantBits(kType) == 8) {
    return static_cast<int>(words[index / 4] >> (index / 2 % 2 * 8 + shift) & 0xFF) - 128;
  } else {
    const int nibble = static_cast<int>(words[0] >> (index / 2 * 4 + shift) & 0xF);
    return nibble - (kType == DType::kQ4_0 ? 8 : 0);
  }
}

// Two of the value, as T.
template <typename T, int kValue>
inline constexpr uint32_t kBroadcastPair = 0x10001u *
                                           (std::is_same_v<T, Bf16>
                                                ? FloatToBf16Bits(static_cast<float>(kValue))
                                                : FloatToFp16Bits(static_cast<float>(kValue)));

// Pair `pair` (0 .. 3) of the words as two T, exactly. The bits of an integer below 2^m, set into
// the mantissa (of at least m bits) of 2^m * 2^k, add up to that power plus the integer.
template <typename T, DType kType>
__device__ __forceinline__ uint32_t QuantPair(const uint32_t (&words)[QuantBits(kType) / 4],
                                              int pair) {
  constexpr int kPower = std::is_same_v<T, Bf16> ? 128 : 1024;
  constexpr uint32_t kPowers = kBroadcastPair<T, kPower>;
  if constexpr (QuantBits(kType) == 4) {
    constexpr int kOffset = kPower + (kType == DType::kQ4_0 ? 8 : 0);
    return AddPairs<T>((words[0] >> (4 * pair) & 0x000F000Fu) | kPowers,
                       kBroadcastPair<T, -kOffset>);
  } else if constexpr (std::is_same_v<T, Fp16>) {
    return AddPairs<T>((words[pair / 2] >> (pair % 2 * 8) & 0x00FF00FFu) | kPowers,
                       kBroadcastPair<T, -kPower - 128>);
  } else {
    // bf16 has 7 bits for the 8: the top one (set where the quant is not negative) chooses between
    // the offsets -128 and -256, whose patterns differ in that very bit.
    const uint32_t bytes = words[pair / 2] >> (pair % 2 * 8);
    return AddPairs<T>((bytes & 0x007F007Fu) | kPowers,
                       (bytes & 0x00800080u) ^ kBroadcastPair<T, -256>);
  }
}

// An element of a row of a block is d * quant + m, with a d for each half of the block's columns.
struct RowScale {
  float d[2];
  float m;  // 0 in formats without a minimum
};

// pair: a K-quant's d and dmin (f16); bytes: its scale and min, or two signed scales.
template <DType kType>
__device__ __forceinline__ RowScale SuperRowScale(uint32_t pair, uint32_t bytes) {
  const float2 d = Unpack2<Fp16>(pair);
  const uint32_t low = bytes & 0xFF;
  const uint32_t high = bytes >> 8 & 0xFF;
  if constexpr (kType == DType::kQ6_K) {
    return {{d.x * static_cast<float>(static_cast<int8_t>(low)),
             d.x * static_cast<float>(static_cast<int8_t>(high))},
            0.0f};
  } else {
    const float scale = d.x * static_cast<float>(low);
    return {{scale, scale}, -(d.y * static_cast<float>(high))};
  }
}

// The scales of rows `row` and row + 1 (row even) of a panel's tile. supers: the K-quants' 8 pairs
// (d, dmin) of the 256 columns, else null. All products are exact in fp32, as on the CPU.
template <DType kType>
__device__ __forceinline__ void LoadRowScales(const uint8_t* tile, const uint8_t* supers, int block,
                                              int row, RowScale (&scales)[2]) {
  const uint8_t* entries = tile + TileQuantBytes(kType);
  const int entry = block * kPanelRows + row;
  if constexpr (HasSuperScales(kType)) {
    const uint32_t bytes = *reinterpret_cast<const uint32_t*>(entries + 2 * entry);
    const uint2 pairs = *reinterpret_cast<const uint2*>(supers + 4 * row);
    scales[0] = SuperRowScale<kType>(pairs.x, bytes);
    scales[1] = SuperRowScale<kType>(pairs.y, bytes >> 16);
  } else if constexpr (HasHalfMinimum(kType)) {
    const uint2 pairs = *reinterpret_cast<const uint2*>(entries + 4 * entry);
    const float2 low = Unpack2<Fp16>(pairs.x);
    const float2 high = Unpack2<Fp16>(pairs.y);
    scales[0] = {{low.x, low.x}, low.y};
    scales[1] = {{high.x, high.x}, high.y};
  } else {
    const float2 both = Unpack2<Fp16>(*reinterpret_cast<const uint32_t*>(entries + 2 * entry));
    scales[0] = {{both.x, both.x}, 0.0f};
    scales[1] = {{both.y, both.y}, 0.0f};
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
