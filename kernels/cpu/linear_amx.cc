#include "kernels/cpu/linear_avx512.h"

// Products of many rows on AMX, with the same bits as everywhere. A tile multiplies bf16 numbers
// and adds up in fp32, where integers up to 2^24 are exact. So an int16 activation goes in as two
// bf16 numbers of eight bits each, q = 256 a + b, and a weight as one: every sum on the way to a
// block's dot product is an exact integer. Formats whose dots can be larger keep the sums of 256 a
// and of b apart (both are exact: the first is a multiple of 256) and add them with one rounding,
// which is the rounding of the conversion from int32 on the other paths.
//
// Source: Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter on AMX. Bytes
// would be no faster: a tile is twice as deep in them as a block is long.

// The assembler wants numbers. Half: of 16 elements along K, for blocks with two scales.
#define TILE_X_HIGH 0  // [rows][32] bf16: 256 a
#define TILE_X_LOW 1   // [rows][32] bf16: b
#define TILE_W 2       // [16 pairs][16 channels][2] bf16
#define TILE_DOTS 3    // [rows][16 channels] fp32
#define TILE_DOTS_LOW 4
#define TILE_X_HIGH_HALF 5
#define TILE_X_LOW_HALF 6
#define TILE_W_HALF 7

namespace tessera {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileLanes = 16;  // channels
constexpr int kXRowBytes = 2 * kQuantBlock * 2;
constexpr int kDotRowBytes = kTileLanes * 4;

constexpr uint16_t Bf16(float value) {
  return static_cast<uint16_t>(__builtin_bit_cast(uint32_t, value) >> 16);
}

// The bf16 numbers that five bits mean, in two's complement if `is_signed`.
struct alignas(64) FiveBitTable {
  uint16_t values[32] = {};

  constexpr explicit FiveBitTable(bool is_signed) {
    for (int i = 0; i < 32; ++i) {
      values[i] = Bf16(static_cast<float>(is_signed && i >= 16 ? i - 32 : i));
    }
  }
};
constexpr FiveBitTable kUnsignedFiveBits(false);
constexpr FiveBitTable kSignedFiveBits(true);

struct Amx : Avx512 {
  static KERNEL_INLINE Int Bf16InHighHalf(Int v) { return _mm512_castps_si512(ToFloat(v)); }

  static KERNEL_INLINE void StoreBf16(Int v, int16_t* p) {
    const Int bf16 = _mm512_srli_epi32(Bf16InHighHalf(v), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(p), _mm512_cvtepi32_epi16(bf16));
  }
  static KERNEL_INLINE void StoreQuants(Int v, int i, int16_t* q) {
    const Int rounded = Add32(v, _mm512_set1_epi32(128));
    const Int high = _mm512_andnot_si512(_mm512_set1_epi32(255), rounded);
    StoreBf16(high, q + i);
    StoreBf16(_mm512_sub_epi32(v, high), q + kQuantBlock + i);
  }

  template <DType kType>
  static KERNEL_INLINE Int ToFactors(Int pairs) {
    constexpr BlockLayout kLayout = LayoutOf(kType);
    if constexpr (kLayout.quants == QuantKind::kNibbles || kLayout.quants == QuantKind::kFiveBits) {
      constexpr const FiveBitTable& kTable =
          kLayout.is_signed ? kSignedFiveBits : kUnsignedFiveBits;
      return _mm512_permutexvar_epi16(pairs, _mm512_load_si512(kTable.values));
    } else {
      const Int first = Bf16InHighHalf(_mm512_srai_epi32(_mm512_slli_epi32(pairs, 16), 16));
      const Int second = Bf16InHighHalf(_mm512_srai_epi32(pairs, 16));
      return Or(_mm512_srli_epi32(first, 16), And(second, _mm512_set1_epi32(-65536)));
    }
  }
};

// The operand of ldtilecfg (Intel SDM volume 2).
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  constexpr void Set(int tile, int num_rows, int num_bytes) {
    rows[tile] = static_cast<uint8_t>(num_rows);
    row_bytes[tile] = static_cast<uint16_t>(num_bytes);
  }
};

constexpr TileShapes ShapesFor(int num_rows) {
  TileShapes shapes;
  for (int tile : {TILE_X_HIGH, TILE_X_LOW}) shapes.Set(tile, num_rows, kQuantBlock * 2);
  for (int tile : {TILE_X_HIGH_HALF, TILE_X_LOW_HALF}) shapes.Set(tile, num_rows, kQuantBlock);
  for (int tile : {TILE_DOTS, TILE_DOTS_LOW}) shapes.Set(tile, num_rows, kDotRowBytes);
  shapes.Set(TILE_W, kPairs, kDotRowBytes);
  shapes.Set(TILE_W_HALF, kPairs / 2, kDotRowBytes);
  return shapes;
}

constinit thread_local int configured_rows = 0;  // this thread's tiles have them

// ldtilecfg takes as long as two products of tiles.
template <int kRows>
KERNEL_INLINE void ConfigureTiles() {
  static constexpr TileShapes kShapes = ShapesFor(kRows);
  if (configured_rows == kRows) return;
  _tile_loadconfig(&kShapes);
  configured_rows = kRows;
}

void ReleaseTiles() {
  if (configured_rows == 0) return;
  _tile_release();
  configured_rows = 0;
}

struct alignas(64) TileDots {
  float dots[kTileRows * kTileLanes];
  float low[kTileRows * kTileLanes];  // unless everything is in dots
};

// The operands of one product after the other: for each tile of rows and each group of channels the
// blocks along K, a product each, or with two scales (kHalves = 2) two.
template <int kHalves, int kRows>
class Operands {
 public:
  KERNEL_INLINE Operands(const uint8_t* blocks, int num_blocks, const QuantTiles& tiles)
      : num_products_(num_blocks * kHalves),
        num_left_(num_products_),
        num_groups_left_(2 * tiles.num_tiles),
        w_(blocks),
        x_(reinterpret_cast<const uint8_t*>(tiles.first.q)),
        to_other_group_(kDotRowBytes - num_blocks * kUnpackedBlockBytes),
        to_next_tile_((tiles.stride - num_blocks * kRows) * kXRowBytes),
        to_same_tile_(-int64_t{num_blocks} * kRows * kXRowBytes) {}

  KERNEL_INLINE bool at_end() const { return num_groups_left_ == 0; }
  KERNEL_INLINE const uint8_t* w() const { return w_; }
  KERNEL_INLINE const uint8_t* x() const { return x_; }
  KERNEL_INLINE int half() const { return (num_products_ - num_left_) % kHalves; }

  KERNEL_INLINE void Advance() {
    if (half() == kHalves - 1) {
      w_ += kUnpackedBlockBytes;
      x_ += kRows * kXRowBytes;
    }
    if (--num_left_ > 0) return;
    num_left_ = num_products_;
    --num_groups_left_;
    const bool same_tile = num_groups_left_ % 2 == 1;
    w_ += same_tile ? to_other_group_ : to_other_group_ - 2 * kDotRowBytes;
    x_ += same_tile ? to_same_tile_ : to_next_tile_;
  }

 private:
  int num_products_;
  int num_left_;
  int num_groups_left_;
  const uint8_t* w_;
  const uint8_t* x_;
  int64_t to_other_group_;
  int64_t to_next_tile_;
  int64_t to_same_tile_;
};

// Leaves the dots in their tiles.
template <bool kApart>
KERNEL_INLINE void MultiplyBlock(const uint8_t* x, const uint8_t* w) {
  _tile_loadd(TILE_W, w, kWordRowBytes);
  _tile_loadd(TILE_X_HIGH, x, kXRowBytes);
  _tile_loadd(TILE_X_LOW, x + kXRowBytes / 2, kXRowBytes);
  _tile_zero(TILE_DOTS);
  _tile_dpbf16ps(TILE_DOTS, TILE_X_HIGH, TILE_W);
  if constexpr (kApart) {
    _tile_zero(TILE_DOTS_LOW);
    _tile_dpbf16ps(TILE_DOTS_LOW, TILE_X_LOW, TILE_W);
  } else {
    _tile_dpbf16ps(TILE_DOTS, TILE_X_LOW, TILE_W);
  }
}

KERNEL_INLINE void MultiplyHalf(const uint8_t* x, const uint8_t* w) {
  _tile_loadd(TILE_W_HALF, w, kWordRowBytes);
  _tile_loadd(TILE_X_HIGH_HALF, x, kXRowBytes);
  _tile_loadd(TILE_X_LOW_HALF, x + kXRowBytes / 2, kXRowBytes);
  _tile_zero(TILE_DOTS);
  _tile_dpbf16ps(TILE_DOTS, TILE_X_HIGH_HALF, TILE_W_HALF);
  _tile_dpbf16ps(TILE_DOTS, TILE_X_LOW_HALF, TILE_W_HALF);
}

template <bool kApart, int kHalves, int kRows>
KERNEL_INLINE void MultiplyNext(Operands<kHalves, kRows>* operands) {
  if (operands->at_end()) return;
  if constexpr (kHalves == 1) {
    MultiplyBlock<kApart>(operands->x(), operands->w());
  } else {
    static_assert(!kApart);
    MultiplyHalf(operands->x() + operands->half() * kQuantBlock,
                 operands->w() + operands->half() * (kPairs / 2) * kWordRowBytes);
  }
  operands->Advance();
}

template <bool kApart>
KERNEL_INLINE void StoreDots(TileDots* dots) {
  _tile_stored(TILE_DOTS, dots->dots, kDotRowBytes);
  if constexpr (kApart) _tile_stored(TILE_DOTS_LOW, dots->low, kDotRowBytes);
}

// sums = fma(dot * scale, d, sums), then with a minimum sums = fma(m, scaled_sum, sums).
template <bool kApart, bool kHasMinimum, int kRows>
KERNEL_INLINE void AddScaledDots(const TileDots& dots, const float* scale, const float* scaled_sum,
                                 __m512 d, __m512 m, __m512 (&sums)[kRows]) {
  KERNEL_UNROLL for (int r = 0; r < kRows; ++r) {
    __m512 dot = Amx::LoadFloat(dots.dots + r * kTileLanes);
    if constexpr (kApart) dot = _mm512_add_ps(dot, Amx::LoadFloat(dots.low + r * kTileLanes));
    sums[r] = Amx::Fma(Amx::Mul(dot, Amx::Broadcast(scale[r])), d, sums[r]);
    if constexpr (kHasMinimum) sums[r] = Amx::Fma(m, Amx::Broadcast(scaled_sum[r]), sums[r]);
  }
}

// Tiles multiply for product n + 2 and give up the dots of product n + 1 while vectors scale those
// of product n, so that nothing waits for what it has just asked for.
//
// GCC does not know what tiles load: nothing here may write it.
template <ScaleKind kKind, bool kApart, int kRows>
void DotTiles(const uint8_t* blocks, int num_blocks, const QuantTiles& x, CacheLines next,
              float* sums) {
  constexpr int kHalves = kKind == ScaleKind::kSuperTwo ? 2 : 1;
  constexpr bool kHasMinimum = kKind == ScaleKind::kHalfMinimum;
  ConfigureTiles<kRows>();
  Operands<kHalves, kRows> operands(blocks, num_blocks, x);
  Prefetcher<kIntoL1> prefetcher(next.begin, next.num_bytes, x.num_tiles * 2 * num_blocks);
  TileDots dots[2];
  MultiplyNext<kApart>(&operands);
  StoreDots<kApart>(&dots[0]);
  MultiplyNext<kApart>(&operands);
  int current = 0;
  for (int i = 0; i < 2 * x.num_tiles; ++i) {
    const int group = i % 2;
    const uint8_t* scales = blocks + kUnpackedQuantBytes + group * kDotRowBytes;
    const int64_t row_block = i / 2 * x.stride;
    const float* scale = x.first.scale + row_block;
    const float* scaled_sum = x.first.scaled_sum + row_block;
    float* out = sums + i / 2 * kRows * kPanelChannels + group * kTileLanes;
    __m512 f[kRows];
    KERNEL_UNROLL for (int r = 0; r < kRows; ++r) f[r] = Amx::LoadFloat(out + r * kPanelChannels);
    for (int b = 0; b < num_blocks; ++b) {
      const __m512 d[2] = {Amx::LoadFloat(scales), Amx::LoadFloat(scales + kWordRowBytes)};
      prefetcher.Step();
      KERNEL_UNROLL for (int half = 0; half < kHalves; ++half, current ^= 1) {
        StoreDots<kApart>(&dots[current ^ 1]);
        MultiplyNext<kApart>(&operands);
        AddScaledDots<kApart, kHasMinimum>(dots[current], scale, scaled_sum, d[half], d[1], f);
      }
      scales += kUnpackedBlockBytes;
      scale += kRows;
      scaled_sum += kRows;
    }
    KERNEL_UNROLL for (int r = 0; r < kRows; ++r) Amx::StoreFloat(f[r], out + r * kPanelChannels);
  }
}

constexpr int LargestWeight(const BlockLayout& layout) {
  switch (layout.quants) {
    case QuantKind::kBytes:
      return 128;
    case QuantKind::kSixBits:
      return 32;
    case QuantKind::kFiveBits:
      return layout.is_signed ? 16 : 31;
    case QuantKind::kNibbles:
      return layout.is_signed ? 8 : 15;
  }
}

// 256 a is at most 32512 and b 128, either way, so this bounds every sum on the way.
constexpr bool DotsFitFp32(const BlockLayout& layout) {
  const int depth = layout.scales == ScaleKind::kSuperTwo ? kQuantBlock / 2 : kQuantBlock;
  return int64_t{32512 + 128} * LargestWeight(layout) * depth <= 1 << 24;
}

template <DType kType, int kRows = 1>
constexpr void AddTiles(LinearKernels* table) {
  constexpr ScaleKind kKind = UnpackedKind(LayoutOf(kType).scales);
  table->dot_unpacked[static_cast<int>(kType)][kRows - 1] =
      DotTiles<kKind, !DotsFitFp32(LayoutOf(kType)), kRows>;
  if constexpr (kRows < kTileRows) AddTiles<kType, kRows + 1>(table);
}

template <DType kType>
constexpr void AddQuantizedType(LinearKernels* table) {
  table->unpack[static_cast<int>(kType)] = Unpack<Amx, kType>;
  AddTiles<kType>(table);
}

constexpr LinearKernels MakeAmxTable() {
  LinearKernels table;
  table.tile_rows = kTileRows;
  table.block_words = 2 * kQuantBlock;
  table.quantize = Quantize<Amx>;
  table.release = ReleaseTiles;
  AddQuantizedType<DType::kQ8_0>(&table);
  AddQuantizedType<DType::kQ4_0>(&table);
  AddQuantizedType<DType::kQ4_1>(&table);
  AddQuantizedType<DType::kQ5_0>(&table);
  AddQuantizedType<DType::kQ5_1>(&table);
  AddQuantizedType<DType::kQ4_K>(&table);
  AddQuantizedType<DType::kQ5_K>(&table);
  AddQuantizedType<DType::kQ6_K>(&table);
  return table;
}

}  // namespace

constinit const LinearKernels kLinearAmx = MakeAmxTable();

}  // namespace tessera
