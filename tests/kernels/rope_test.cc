// Rotary tables against long double, and the rounded store of keys and values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "base/worker_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/kv_page.h"
#include "kernels/cpu/rope_store_kv.h"
#include "kernels/dequantize.h"
#include "kernels/rope_tables.h"

namespace tessera {
namespace {

struct Tables {
  std::vector<float> cosines;
  std::vector<float> sines;
};

Tables BuildTables(const RopeSpec& spec, int64_t num_positions) {
  const auto size = static_cast<size_t>(num_positions * spec.rope_dim / 2);
  Tables tables = {std::vector<float>(size), std::vector<float>(size)};
  BuildRopeTables(spec, num_positions, tables.cosines.data(), tables.sines.data());
  return tables;
}

// Half a unit of float's rounding, and 1e-10 for the angle in double: at most 2^17 * 2^-51 off.
void ExpectNearExact(const RopeSpec& spec, int64_t num_positions) {
  const Tables tables = BuildTables(spec, num_positions);
  const int num_pairs = spec.rope_dim / 2;
  for (int64_t position = 0; position < num_positions; position += position < 512 ? 1 : 509) {
    for (int i = 0; i < num_pairs; ++i) {
      const long double divisor = spec.divisors.empty() ? 1.0L : spec.divisors[i];
      const long double frequency =
          std::pow(static_cast<long double>(spec.theta), -2.0L * i / spec.rope_dim) / divisor;
      const long double angle = static_cast<long double>(position) * frequency;
      const auto index = static_cast<size_t>(position * num_pairs + i);
      for (const auto& [value, exact] : {std::pair{tables.cosines[index], std::cos(angle)},
                                         std::pair{tables.sines[index], std::sin(angle)}}) {
        const auto wanted = static_cast<double>(exact);
        ASSERT_NEAR(double{value}, wanted, std::fabs(wanted) * 0x1.0001p-24 + 1e-10)
            << "position " << position << " pair " << i;
      }
    }
  }
}

TEST(RopeTablesTest, MatchTheExactValuesFromShortToLongContexts) {
  RopeSpec spec;
  spec.rope_dim = 64;
  spec.theta = 1e4;
  ExpectNearExact(spec, 131072);
  spec.theta = 1e5;
  ExpectNearExact(spec, 8192);
  spec.rope_dim = 80;
  spec.theta = 5e5;
  ExpectNearExact(spec, 8192);
}

TEST(RopeTablesTest, DivisorsSlowTheirPairs) {
  std::vector<float> divisors(32);
  for (size_t i = 0; i < divisors.size(); ++i)
    divisors[i] = i < 8 ? 1.0f : 1.0f + 0.28f * static_cast<float>(i - 8);
  RopeSpec spec;
  spec.rope_dim = 64;
  spec.theta = 5e5;
  spec.divisors = divisors;
  ExpectNearExact(spec, 16384);
}

// The tables are part of what makes output equal on every machine and compiler.
TEST(RopeTablesTest, BitsAreFixed) {
  RopeSpec spec;
  spec.rope_dim = 64;
  spec.theta = 1e5;
  const Tables tables = BuildTables(spec, 8192);
  uint64_t hash = 14695981039346656037u;  // FNV-1a over words
  for (const std::vector<float>* table : {&tables.cosines, &tables.sines}) {
    for (const float value : *table) {
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      hash = (hash ^ bits) * 1099511628211u;
    }
  }
  EXPECT_EQ(hash, 5405442217390050609u);
}

struct Shape {
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int rope_dim;

  KvSpec spec() const { return {num_kv_heads, head_dim}; }
  int row_heads() const { return num_heads + 2 * num_kv_heads; }
  size_t row_floats() const {
    return static_cast<size_t>(row_heads()) * static_cast<size_t>(head_dim);
  }
};

constexpr Shape kShapes[] = {{9, 3, 64, 64},   {4, 4, 80, 80}, {6, 2, 96, 32},
                             {2, 1, 128, 128}, {3, 1, 40, 24}, {1, 1, 256, 256}};

// Two sequences: 70 new rows at positions 60..129, and one at position 7.
struct Batch {
  std::vector<int32_t> query_starts = {0, 70, 71};
  std::vector<int32_t> kv_lengths = {130, 8};
  std::vector<int32_t> page_starts = {0, 3, 4};
  std::vector<int32_t> page_ids = {5, 1, 3, 2};
  SequenceBatch view{query_starts, kv_lengths, page_starts, page_ids};
  static constexpr int kNumPages = 6;

  int64_t Position(int row) const { return row < 70 ? 60 + row : 7; }
  int32_t PageId(int row) const {
    return row < 70 ? page_ids[static_cast<size_t>(Position(row) / kPageTokens)] : page_ids[3];
  }
};

struct Result {
  std::vector<float> qkv;
  std::vector<std::byte> pages;
  std::vector<uint8_t> faults;
};

std::vector<float> RandomQkv(const Shape& shape, int num_rows) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> qkv(shape.row_floats() * static_cast<size_t>(num_rows));
  for (float& x : qkv) x = 3.0f * normal(random);
  return qkv;
}

const Tables& TablesOf(int rope_dim) {
  static std::map<int, Tables> all;
  if (!all.contains(rope_dim)) {
    RopeSpec spec;
    spec.rope_dim = rope_dim;
    all[rope_dim] = BuildTables(spec, 256);
  }
  return all[rope_dim];
}

Result RopeStore(const Shape& shape, const SequenceBatch& batch, const std::vector<float>& qkv,
                 CpuIsa isa, int num_threads) {
  const size_t page_bytes = CpuKvPageBytes(shape.spec());
  Result result = {qkv, std::vector<std::byte>(page_bytes * Batch::kNumPages, std::byte{0xFF}),
                   std::vector<uint8_t>(static_cast<size_t>(batch.num_rows()))};
  RopeStoreKvParams params;
  params.qkv = result.qkv.data();
  params.num_heads = shape.num_heads;
  params.spec = shape.spec();
  params.pages = result.pages.data();
  params.batch = &batch;
  params.rope_cos = TablesOf(shape.rope_dim).cosines.data();
  params.rope_sin = TablesOf(shape.rope_dim).sines.data();
  params.rope_dim = shape.rope_dim;
  params.row_faults = result.faults.data();
  WorkerPool pool(num_threads);
  CpuRopeStoreKv(&pool, isa).Run(params);
  return result;
}

// A head rotated in double, with the error of two products and a sum.
struct Rotated {
  std::vector<double> values;
  std::vector<double> tolerances;
};

Rotated RotateExactly(const Shape& shape, const float* head, int64_t position) {
  Rotated rotated = {std::vector<double>(head, head + shape.head_dim),
                     std::vector<double>(static_cast<size_t>(shape.head_dim), 0.0)};
  const int num_pairs = shape.rope_dim / 2;
  const Tables& tables = TablesOf(shape.rope_dim);
  for (int i = 0; i < num_pairs; ++i) {
    const auto index = static_cast<size_t>(position * num_pairs + i);
    const double c = tables.cosines[index];
    const double s = tables.sines[index];
    const double x = head[i];
    const double y = head[i + num_pairs];
    const auto low = static_cast<size_t>(i);
    const size_t high = low + static_cast<size_t>(num_pairs);
    rotated.values[low] = x * c - y * s;
    rotated.values[high] = x * s + y * c;
    rotated.tolerances[low] = rotated.tolerances[high] = (std::fabs(x) + std::fabs(y)) * 0x1p-23;
  }
  return rotated;
}

float PageElement(const Result& result, const Shape& shape, int32_t page_id, int64_t offset) {
  const auto* halves = reinterpret_cast<const uint16_t*>(result.pages.data());
  return HalfToFloat(
      halves[static_cast<int64_t>(CpuKvPageBytes(shape.spec()) / 2) * page_id + offset]);
}

TEST(RopeStoreKvTest, RotatesAndStoresAsFloat64Does) {
  const Batch batch;
  for (const Shape& shape : kShapes) {
    const std::vector<float> qkv = RandomQkv(shape, batch.view.num_rows());
    const Result result = RopeStore(shape, batch.view, qkv, CpuIsa::kAuto, 2);
    for (int row = 0; row < batch.view.num_rows(); ++row) {
      const int64_t position = batch.Position(row);
      const int slot = static_cast<int>(position % kPageTokens);
      for (int h = 0; h < shape.row_heads(); ++h) {
        const size_t start =
            static_cast<size_t>(row) * shape.row_floats() + static_cast<size_t>(h * shape.head_dim);
        const Rotated rotated = RotateExactly(shape, &qkv[start], position);
        const int kv_head = (h - shape.num_heads) % shape.num_kv_heads;
        const int64_t page_head = kv_head * KvHeadStride(shape.head_dim);
        for (int d = 0; d < shape.head_dim; ++d) {
          const auto i = static_cast<size_t>(d);
          if (h < shape.num_heads) {
            ASSERT_NEAR(result.qkv[start + i], rotated.values[i], rotated.tolerances[i]);
          } else if (h < shape.num_heads + shape.num_kv_heads) {
            const float k = PageElement(result, shape, batch.PageId(row),
                                        page_head + KeyOffset(shape.head_dim, slot, d));
            ASSERT_NEAR(k, rotated.values[i],
                        rotated.tolerances[i] + std::fabs(rotated.values[i]) * 0x1p-11 + 0x1p-25);
          } else {
            const float v = PageElement(result, shape, batch.PageId(row),
                                        page_head + ValueOffset(shape.head_dim) +
                                            int64_t{slot} * PaddedHeadDim(shape.head_dim) + d);
            ASSERT_EQ(v, HalfToFloat(FloatToHalfFinite(qkv[start + i])));
          }
        }
      }
    }
  }
}

TEST(RopeStoreKvTest, PathsAndThreadCountsGiveTheSameBits) {
  const Batch batch;
  for (const Shape& shape : kShapes) {
    const std::vector<float> qkv = RandomQkv(shape, batch.view.num_rows());
    const Result expected = RopeStore(shape, batch.view, qkv, CpuIsa::kPortable, 1);
    for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
      if (!IsSupported(isa)) continue;
      for (const int threads : {1, 2, 3}) {
        const Result result = RopeStore(shape, batch.view, qkv, isa, threads);
        EXPECT_EQ(std::memcmp(result.qkv.data(), expected.qkv.data(), qkv.size() * sizeof(float)),
                  0);
        EXPECT_EQ(result.pages, expected.pages);
      }
    }
  }
}

TEST(RopeStoreKvTest, ARowAloneIsStoredAsInItsBatch) {
  const Batch batch;
  const Shape shape = kShapes[0];
  const std::vector<float> qkv = RandomQkv(shape, batch.view.num_rows());
  const Result together = RopeStore(shape, batch.view, qkv, CpuIsa::kAuto, 2);
  for (int row = 0; row < batch.view.num_rows(); ++row) {
    const std::vector<int32_t> starts = {0, 1};
    const std::vector<int32_t> length = {static_cast<int32_t>(batch.Position(row) + 1)};
    const std::vector<int32_t> page_starts =
        row < 70 ? std::vector<int32_t>{0, 3} : std::vector<int32_t>{0, 1};
    const std::vector<int32_t> pages =
        row < 70 ? std::vector<int32_t>{5, 1, 3} : std::vector<int32_t>{2};
    const size_t start = static_cast<size_t>(row) * shape.row_floats();
    const std::vector<float> one(qkv.begin() + static_cast<int64_t>(start),
                                 qkv.begin() + static_cast<int64_t>(start + shape.row_floats()));
    const Result result =
        RopeStore(shape, {starts, length, page_starts, pages}, one, CpuIsa::kAuto, 1);
    EXPECT_EQ(std::memcmp(result.qkv.data(), &together.qkv[start], one.size() * sizeof(float)), 0);
    for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
      for (int d = 0; d < shape.head_dim; ++d) {
        const int64_t offset =
            kv_head * KvHeadStride(shape.head_dim) +
            KeyOffset(shape.head_dim, static_cast<int>(batch.Position(row) % kPageTokens), d);
        ASSERT_EQ(PageElement(result, shape, batch.PageId(row), offset),
                  PageElement(together, shape, batch.PageId(row), offset));
      }
    }
  }
}

TEST(RopeStoreKvTest, NonFiniteKeysAndValuesAreStoredFiniteAndFlagTheirRow) {
  const Batch batch;
  const Shape shape = kShapes[0];
  std::vector<float> qkv = RandomQkv(shape, batch.view.num_rows());
  const auto at = [&](int row, int head, int d) -> float& {
    return qkv[static_cast<size_t>(row) * shape.row_floats() +
               static_cast<size_t>(head * shape.head_dim + d)];
  };
  constexpr float kInf = std::numeric_limits<float>::infinity();
  at(3, 9, 5) = std::numeric_limits<float>::quiet_NaN();    // a key
  at(20, 12, 63) = -kInf;                                   // a value
  at(70, 14, 0) = std::numeric_limits<float>::quiet_NaN();  // a value
  at(40, 13, 1) = 1e9f;                                     // finite: saturates, no fault
  at(50, 2, 1) = kInf;                                      // a query: not stored
  for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (!IsSupported(isa)) continue;
    const Result result = RopeStore(shape, batch.view, qkv, isa, 3);
    for (int row = 0; row < batch.view.num_rows(); ++row) {
      EXPECT_EQ(result.faults[static_cast<size_t>(row)], row == 3 || row == 20 || row == 70) << row;
    }
    const auto value = [&](int row, int kv_head, int d) {
      const int64_t slot = batch.Position(row) % kPageTokens;
      return PageElement(result, shape, batch.PageId(row),
                         kv_head * KvHeadStride(64) + ValueOffset(64) + slot * 64 + d);
    };
    EXPECT_EQ(value(20, 0, 63), -65504.0f);
    EXPECT_EQ(value(70, 2, 0), 0.0f);
    EXPECT_EQ(value(40, 1, 1), 65504.0f);
    EXPECT_EQ(PageElement(result, shape, batch.PageId(3), KeyOffset(64, 63, 5)), 0.0f);
  }
}

TEST(RopeStoreKvTest, CopyPageCopiesTheFirstTokensAndNoMore) {
  const Shape shape = {3, 3, 40, 40};
  const auto page_halves = static_cast<int64_t>(CpuKvPageBytes(shape.spec()) / 2);
  std::vector<uint16_t> pages(static_cast<size_t>(3 * page_halves));
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<uint16_t>(i * 7919);
  const std::vector<uint16_t> before = pages;
  constexpr int kTokens = 37;
  CpuCopyPage(shape.spec(), reinterpret_cast<std::byte*>(pages.data()), 2, 0, kTokens);
  for (int64_t i = 0; i < page_halves; ++i) {
    const int64_t in_head = i % KvHeadStride(40);
    const int64_t key_block = in_head / (int64_t{40} * kKeyBlockTokens);
    const int64_t token = in_head < ValueOffset(40)
                              ? key_block * kKeyBlockTokens + in_head % kKeyBlockTokens
                              : (in_head - ValueOffset(40)) / PaddedHeadDim(40);
    const int64_t source = token < kTokens ? i + 2 * page_halves : i;
    ASSERT_EQ(pages[static_cast<size_t>(i)], before[static_cast<size_t>(source)]) << i;
  }
  EXPECT_TRUE(std::equal(pages.begin() + page_halves, pages.end(), before.begin() + page_halves));
}

}  // namespace
}  // namespace tessera
