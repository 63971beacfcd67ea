#pragma once

#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/prefetcher.h"

// The kernels of LinearKernels, written once over a type S that names one instruction set's vectors
// (linear_avx2.cc, linear_avx512.h). Included by the SIMD files alone, each compiled with its own
// flags: hence the anonymous namespace and no std:: code, so that the linker can merge no function
// compiled here with another file's (tests/kernels/no_weak_symbols.py).
//
// By role: QuantPair and the sources' LoadScales read a block, DotPairs multiplies it, AddScaled
// brings it into the sums. S::kLanes channels make a group; a panel has 32 / S::kLanes of them.

#define KERNEL_INLINE inline __attribute__((always_inline))
#define KERNEL_LAMBDA __attribute__((always_inline))
#define KERNEL_UNROLL _Pragma("GCC unroll 32")

namespace tessera {
namespace {

constexpr int kPairs = kQuantBlock / 2;
constexpr int kWordRowBytes = kPanelChannels * 4;  // one 32-bit word of each channel

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// Calls f(Constant<kFrom>{}) .. f(Constant<kEnd - 1>{}): unrolled, and the index is a constant.
template <int kEnd, int kFrom = 0, class F>
KERNEL_INLINE void Unroll(const F& f) {
  if constexpr (kFrom < kEnd) {
    f(Constant<kFrom>{});
    Unroll<kEnd, kFrom + 1>(f);
  }
}

// Shifts the 16-bit halves so that bit kFromBit comes to bit kToBit.
template <class S, int kFromBit, int kToBit>
KERNEL_INLINE typename S::Int MoveBits(typename S::Int v) {
  if constexpr (kFromBit > kToBit) {
    return S::template ShiftRight16<kFromBit - kToBit>(v);
  } else if constexpr (kFromBit < kToBit) {
    return S::template ShiftLeft16<kToBit - kFromBit>(v);
  } else {
    return v;
  }
}

// Pair kPair's nibbles as int16. words: this group's part of the [4][32 channels] words.
template <class S, bool kSigned, int kPair>
KERNEL_INLINE typename S::Int NibblePair(const uint8_t* words) {
  constexpr int kBit = 4 * (kPair % 4);
  const typename S::Int word = S::LoadInt(words + (kPair / 4) * kWordRowBytes);
  if constexpr (kSigned) {
    return S::template ShiftRightSigned16<12>(MoveBits<S, kBit, 12>(word));
  } else if constexpr (kBit == 12) {
    return S::template ShiftRight16<12>(word);
  } else {
    return S::And(MoveBits<S, kBit, 0>(word), S::Set16(15));
  }
}

// Pair kPair of a packed block as int16 pairs, one 32-bit lane a channel (panel_layout.h).
template <class S, DType kType, int kPair>
KERNEL_INLINE typename S::Int QuantPair(const uint8_t* block, int group) {
  constexpr BlockLayout kLayout = LayoutOf(kType);
  const int lane = group * S::kLanes;
  if constexpr (kLayout.quants == QuantKind::kBytes) {
    return S::LoadInt8As16(block + (kPair * kPanelChannels + lane) * 2);
  } else if constexpr (kLayout.quants == QuantKind::kNibbles) {
    return NibblePair<S, kLayout.is_signed, kPair>(block + lane * 4);
  } else if constexpr (kLayout.quants == QuantKind::kFiveBits) {
    const typename S::Int nibbles = NibblePair<S, false, kPair>(block + lane * 4);
    const typename S::Int high = S::LoadInt(block + kLayout.high_offset + lane * 4);
    const typename S::Int bit = S::And(MoveBits<S, kPair, 4>(high), S::Set16(16));
    return kLayout.is_signed ? S::Sub16(nibbles, bit) : S::Or(nibbles, bit);
  } else {
    const typename S::Int nibbles = NibblePair<S, false, kPair>(block + lane * 4);
    const typename S::Int high =
        S::LoadInt(block + kLayout.high_offset + (kPair / 8) * kWordRowBytes + lane * 4);
    const typename S::Int bits = S::And(MoveBits<S, 2 * (kPair % 8), 4>(high), S::Set16(48));
    return S::Sub16(S::Or(nibbles, bits), S::Set16(32));
  }
}

// `second` is m, or for Q6_K the scale of elements 16-31; unused otherwise.
template <class S>
struct GroupScales {
  typename S::Float d;
  typename S::Float second;
};

// Walks a panel's packed blocks.
template <class S, DType kType>
class PackedBlocks {
 public:
  using Simd = S;
  static constexpr BlockLayout kLayout = LayoutOf(kType);
  static constexpr ScaleKind kScales = kLayout.scales;

  explicit PackedBlocks(const uint8_t* chunk)
      : header_(chunk), block_(chunk + kLayout.header_bytes) {}

  template <int kPair>
  KERNEL_INLINE typename S::Int Pair(int group) const {
    return QuantPair<S, kType, kPair>(block_, group);
  }

  KERNEL_INLINE GroupScales<S> LoadScales(int group) const {
    const int lane = group * S::kLanes;
    const uint8_t* scales = block_ + kLayout.scales_offset;
    if constexpr (kScales == ScaleKind::kHalf) {
      const typename S::Float d = S::LoadHalf(scales + lane * 2);
      return {d, d};
    } else if constexpr (kScales == ScaleKind::kHalfMinimum) {
      return {S::LoadHalf(scales + lane * 2), S::LoadHalf(scales + (kPanelChannels + lane) * 2)};
    } else if constexpr (kScales == ScaleKind::kSuper) {
      const typename S::Float d = S::LoadHalf(header_ + lane * 2);
      const typename S::Float dmin = S::LoadHalf(header_ + (kPanelChannels + lane) * 2);
      return {S::Mul(d, S::LoadUint8(scales + lane)),
              S::Negate(S::Mul(dmin, S::LoadUint8(scales + kPanelChannels + lane)))};
    } else {
      const typename S::Float d = S::LoadHalf(header_ + lane * 2);
      return {S::Mul(d, S::LoadInt8(scales + lane)),
              S::Mul(d, S::LoadInt8(scales + kPanelChannels + lane))};
    }
  }

  KERNEL_INLINE void Prefetch() const {
    KERNEL_UNROLL for (int i = 0; i < kLayout.block_bytes; i += kCacheLine) {
      S::Prefetch(block_ + S::kPrefetchBytes + i);
    }
  }

  // Goes to block `next`, counted from the start.
  KERNEL_INLINE void Advance(int next) {
    block_ += kLayout.block_bytes;
    if (kLayout.header_bytes > 0 && next % kChunkBlocks == 0) {
      header_ = block_;
      block_ += kLayout.header_bytes;
    }
  }

 private:
  const uint8_t* header_;
  const uint8_t* block_;
};

// Walks blocks that Unpack wrote.
template <class S, ScaleKind kKind>
class UnpackedBlocks {
 public:
  using Simd = S;
  static constexpr ScaleKind kScales = kKind;

  explicit UnpackedBlocks(const uint8_t* blocks) : block_(blocks) {}

  template <int kPair>
  KERNEL_INLINE typename S::Int Pair(int group) const {
    return S::LoadInt(block_ + kPair * kWordRowBytes + group * S::kLanes * 4);
  }

  KERNEL_INLINE GroupScales<S> LoadScales(int group) const {
    const uint8_t* scales = block_ + kUnpackedQuantBytes + group * S::kLanes * 4;
    return {S::LoadFloat(scales), S::LoadFloat(scales + kWordRowBytes)};
  }

  KERNEL_INLINE void Prefetch() const {}
  KERNEL_INLINE void Advance(int /*next*/) { block_ += kUnpackedBlockBytes; }

 private:
  const uint8_t* block_;
};

template <class S, DType kType>
void Unpack(const uint8_t* chunk, int num_blocks, uint8_t* out) {
  PackedBlocks<S, kType> source(chunk);
  for (int b = 0; b < num_blocks; source.Advance(++b), out += kUnpackedBlockBytes) {
    for (int group = 0; group < kPanelChannels / S::kLanes; ++group) {
      uint8_t* lanes = out + group * S::kLanes * 4;
      Unroll<kPairs>([&](auto pair) KERNEL_LAMBDA {
        constexpr int kPair = decltype(pair)::value;
        S::StoreInt(S::template ToFactors<kType>(source.template Pair<kPair>(group)),
                    lanes + kPair * kWordRowBytes);
      });
      const GroupScales<S> scales = source.LoadScales(group);
      S::StoreFloat(scales.d, lanes + kUnpackedQuantBytes);
      S::StoreFloat(scales.second, lanes + kUnpackedQuantBytes + kWordRowBytes);
    }
  }
}

// dots += pair kPair's products, for kRows rows and kGroups groups.
template <int kPair, class Source, class Int, int kRows, int kGroups>
KERNEL_INLINE void DotPair(const Source& source, int first_group, const int16_t* x,
                           Int (&dots)[kRows][kGroups]) {
  using S = typename Source::Simd;
  Int w[kGroups];
  KERNEL_UNROLL for (int g = 0; g < kGroups; ++g) {
    w[g] = source.template Pair<kPair>(first_group + g);
  }
  KERNEL_UNROLL for (int r = 0; r < kRows; ++r) {
    const Int pair_of_x = S::BroadcastPair(x + r * kQuantBlock + 2 * kPair);
    KERNEL_UNROLL for (int g = 0; g < kGroups; ++g) {
      dots[r][g] = S::DotAdd(dots[r][g], w[g], pair_of_x);
    }
  }
}

// The exact dot products of pairs [kFirst, kEnd) of a block.
template <int kFirst, int kEnd, class Source, class Int, int kRows, int kGroups>
KERNEL_INLINE void DotPairs(const Source& source, int first_group, const int16_t* x,
                            Int (&dots)[kRows][kGroups]) {
  KERNEL_UNROLL for (int r = 0; r < kRows; ++r) {
    KERNEL_UNROLL for (int g = 0; g < kGroups; ++g) dots[r][g] = Source::Simd::Zero();
  }
  Unroll<kEnd, kFirst>([&](auto pair) KERNEL_LAMBDA {
    DotPair<decltype(pair)::value>(source, first_group, x, dots);
  });
}

// sums = fma(float(dot) * scale, d, sums), then with a minimum sums = fma(m, scaled_sum, sums).
template <class S, bool kHasMinimum, class Int, int kRows, int kGroups>
KERNEL_INLINE void AddScaled(const Int (&dots)[kRows][kGroups], const typename S::Float* d,
                             const typename S::Float* m, const float* scale,
                             const float* scaled_sum, float* sums) {
  KERNEL_UNROLL for (int r = 0; r < kRows; ++r) {
    KERNEL_UNROLL for (int g = 0; g < kGroups; ++g) {
      float* sum = sums + r * kPanelChannels + g * S::kLanes;
      const typename S::Float scaled = S::Mul(S::ToFloat(dots[r][g]), S::Broadcast(scale[r]));
      typename S::Float f = S::Fma(scaled, d[g], S::LoadFloat(sum));
      if constexpr (kHasMinimum) f = S::Fma(m[g], S::Broadcast(scaled_sum[r]), f);
      S::StoreFloat(f, sum);
    }
  }
}

// Groups [first_group, first_group + kGroups) of a panel, all blocks.
template <class Source, int kRows, int kGroups>
KERNEL_INLINE void DotGroups(const uint8_t* weights, int num_blocks, QuantTile x, int first_group,
                             float* sums) {
  using S = typename Source::Simd;
  constexpr bool kTwoScales = Source::kScales == ScaleKind::kSuperTwo;
  constexpr bool kHasMinimum =
      Source::kScales == ScaleKind::kHalfMinimum || Source::kScales == ScaleKind::kSuper;
  Source source(weights);
  for (int b = 0; b < num_blocks; source.Advance(++b)) {
    if (first_group == 0) source.Prefetch();  // of all groups
    typename S::Int dots[kRows][kGroups];
    DotPairs<0, kTwoScales ? kPairs / 2 : kPairs>(source, first_group, x.q, dots);
    typename S::Float d[kGroups];
    typename S::Float second[kGroups];
    KERNEL_UNROLL for (int g = 0; g < kGroups; ++g) {
      const GroupScales<S> scales = source.LoadScales(first_group + g);
      d[g] = scales.d;
      second[g] = scales.second;
    }
    AddScaled<S, kHasMinimum>(dots, d, second, x.scale, x.scaled_sum, sums);
    if constexpr (kTwoScales) {
      DotPairs<kPairs / 2, kPairs>(source, first_group, x.q, dots);
      AddScaled<S, false>(dots, second, second, x.scale, x.scaled_sum, sums);
    }
    if constexpr (2 * kRows * kGroups + 4 > S::kNumRegisters) {
      // Else GCC keeps the sums in registers over all blocks and spills the dots: 10 % slower.
      __asm__ volatile("" ::: "memory");
    }
    x.q += kRows * kQuantBlock;
    x.scale += kRows;
    x.scaled_sum += kRows;
  }
}

template <class Source, int kRows>
void DotPanel(const uint8_t* weights, int num_blocks, const QuantTile& x, float* sums) {
  using S = typename Source::Simd;
  constexpr int kGroups = S::GroupsAtOnce(kRows);
  for (int group = 0; group < kPanelChannels / S::kLanes; group += kGroups) {
    DotGroups<Source, kRows, kGroups>(weights, num_blocks, x, group, sums + group * S::kLanes);
  }
}

template <class S, ScaleKind kKind, int kRows>
void DotPanelOfTiles(const uint8_t* blocks, int num_blocks, const QuantTiles& x, CacheLines next,
                     float* sums) {
  QuantTile tile = x.first;
  Prefetcher<kIntoL1> prefetcher(next.begin, next.num_bytes, x.num_tiles);
  for (int i = 0; i < x.num_tiles; ++i, sums += kRows * kPanelChannels) {
    prefetcher.Step();
    DotPanel<UnpackedBlocks<S, kKind>, kRows>(blocks, num_blocks, tile, sums);
    tile.q += x.stride * kQuantBlock;
    tile.scale += x.stride;
    tile.scaled_sum += x.stride;
  }
}

template <class S, DType kType>
KERNEL_INLINE typename S::Float LoadElements(const uint8_t* elements) {
  if constexpr (kType == DType::kF32) return S::LoadFloat(elements);
  if constexpr (kType == DType::kF16) return S::LoadHalf(elements);
  if constexpr (kType == DType::kBf16) return S::LoadBf16(elements);
}

template <class S, DType kType, int kRows, int kGroups>
KERNEL_INLINE void DotFloatGroups(const uint8_t* panel, int64_t cols, const float* x,
                                  int64_t x_stride, float* sums) {
  using Float = typename S::Float;
  constexpr int kElementBytes = BlockBytes(kType);
  Float f[kRows][kGroups];
  KERNEL_UNROLL for (int r = 0; r < kRows; ++r) {
    KERNEL_UNROLL for (int g = 0; g < kGroups; ++g) f[r][g] = S::Broadcast(0.0f);
  }
  for (int64_t k = 0; k < cols; ++k, panel += kPanelChannels * kElementBytes) {
    Float w[kGroups];
    KERNEL_UNROLL for (int g = 0; g < kGroups; ++g) {
      w[g] = LoadElements<S, kType>(panel + g * S::kLanes * kElementBytes);
    }
    KERNEL_UNROLL for (int r = 0; r < kRows; ++r) {
      const Float x_k = S::Broadcast(x[r * x_stride + k]);
      KERNEL_UNROLL for (int g = 0; g < kGroups; ++g) f[r][g] = S::Fma(w[g], x_k, f[r][g]);
    }
  }
  KERNEL_UNROLL for (int r = 0; r < kRows; ++r) {
    KERNEL_UNROLL for (int g = 0; g < kGroups; ++g) {
      S::StoreFloat(f[r][g], sums + r * kPanelChannels + g * S::kLanes);
    }
  }
}

template <class S, DType kType, int kRows>
void DotFloatPanel(const uint8_t* panel, int64_t cols, const float* x, int64_t x_stride,
                   float* sums) {
  constexpr int kGroups = S::GroupsAtOnce(kRows);
  for (int group = 0; group < kPanelChannels / S::kLanes; group += kGroups) {
    const int lane = group * S::kLanes;
    DotFloatGroups<S, kType, kRows, kGroups>(panel + lane * BlockBytes(kType), cols, x, x_stride,
                                             sums + lane);
  }
}

KERNEL_INLINE uint32_t FloatBits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

KERNEL_INLINE float FloatFromBits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// docs/numerics.md, CPU: a block too small to matter becomes zeros, one with a NaN or infinity a
// NaN scale. Returns the block's scale and writes its integers and their sum.
template <class S>
KERNEL_INLINE float QuantizeBlock(const float* x, int16_t* q, int* sum) {
  typename S::Int max_lanes = S::Zero();
  KERNEL_UNROLL for (int i = 0; i < kQuantBlock; i += S::kLanes) {
    max_lanes = S::Max32(max_lanes, S::MagnitudeBits(x + i));
  }
  const uint32_t max_bits = S::ReduceMax32(max_lanes);
  const bool is_finite = max_bits < kFloatInfinityBits;
  const bool has_values = is_finite && max_bits >= FloatBits(kTinyActivation);
  const float max = FloatFromBits(max_bits);
  const typename S::Float inverse = S::Broadcast(has_values ? kActivationMax / max : 0.0f);
  typename S::Int sum_lanes = S::Zero();
  KERNEL_UNROLL for (int i = 0; i < kQuantBlock; i += S::kLanes) {
    typename S::Int integers = S::RoundToInt(S::Mul(S::LoadFloat(x + i), inverse));
    if (!has_values) integers = S::Zero();
    sum_lanes = S::Add32(sum_lanes, integers);
    S::StoreQuants(integers, i, q);
  }
  *sum = S::ReduceAdd32(sum_lanes);
  if (!is_finite) return FloatFromBits(kFloatNanBits);
  return has_values ? max / kActivationMax : 0.0f;
}

template <class S>
void Quantize(const float* x, int num_blocks, int64_t q_stride, int64_t scale_stride, int16_t* q,
              float* scale, float* scaled_sum) {
  for (int b = 0; b < num_blocks; ++b) {
    int sum = 0;
    *scale = QuantizeBlock<S>(x, q, &sum);
    *scaled_sum = *scale * static_cast<float>(sum);
    x += kQuantBlock;
    q += q_stride;
    scale += scale_stride;
    scaled_sum += scale_stride;
  }
}

template <class S, DType kType, int kRows>
constexpr void AddRows(LinearKernels* table) {
  constexpr int kIndex = static_cast<int>(kType);
  if constexpr (IsQuantized(kType)) {
    constexpr ScaleKind kUnpacked = UnpackedKind(LayoutOf(kType).scales);
    table->dot_packed[kIndex][kRows - 1] = DotPanel<PackedBlocks<S, kType>, kRows>;
    table->dot_unpacked[kIndex][kRows - 1] = DotPanelOfTiles<S, kUnpacked, kRows>;
  } else {
    table->dot_float[kIndex][kRows - 1] = DotFloatPanel<S, kType, kRows>;
  }
  if constexpr (kRows < S::kTileRows) AddRows<S, kType, kRows + 1>(table);
}

template <class S, DType kType>
constexpr void AddType(LinearKernels* table) {
  AddRows<S, kType, 1>(table);
  if constexpr (IsQuantized(kType)) table->unpack[static_cast<int>(kType)] = Unpack<S, kType>;
}

template <class S>
constexpr LinearKernels MakeTable() {
  LinearKernels table;
  table.tile_rows = S::kTileRows;
  table.max_direct_rows = 32;
  table.max_unpacked_blocks = S::kUnpackedBlocks;
  table.quantize = Quantize<S>;
  AddType<S, DType::kF32>(&table);
  AddType<S, DType::kF16>(&table);
  AddType<S, DType::kBf16>(&table);
  AddType<S, DType::kQ8_0>(&table);
  AddType<S, DType::kQ4_0>(&table);
  AddType<S, DType::kQ4_1>(&table);
  AddType<S, DType::kQ5_0>(&table);
  AddType<S, DType::kQ5_1>(&table);
  AddType<S, DType::kQ4_K>(&table);
  AddType<S, DType::kQ5_K>(&table);
  AddType<S, DType::kQ6_K>(&table);
  return table;
}

}  // namespace
}  // namespace tessera
