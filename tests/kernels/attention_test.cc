// CPU attention against a plain float64 softmax written here, and bit for bit against itself under
// every circumstance that must not change a row: neighbours, chunks, threads, instruction sets, and
// what stands in unused page slots.
#include "kernels/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/worker_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/kv_page.h"
#include "kernels/cpu/rope_store_kv.h"
#include "kernels/dequantize.h"
#include "tests/support/noise.h"

namespace tessera {
namespace {

struct Shape {
  int num_heads;
  int num_kv_heads;
  int head_dim;

  KvSpec spec() const { return {num_kv_heads, head_dim}; }
  size_t row_floats() const {
    return static_cast<size_t>(num_heads) * static_cast<size_t>(head_dim);
  }
};

struct Options {
  const char* name = "causal";
  bool causal = true;
  int window = 0;
  float softcap = 0.0f;
  float query_size = 1.0f;  // large ones make one key dominate and the running maximum jump
};

// A sequence's tokens; its last `num_new` are rows of the step.
struct Length {
  int total;
  int num_new;
};

// One sequence's queries, keys and values by position, in fp32 and fp16.
struct Sequence {
  int length = 0;
  std::vector<float> q;        // [length, num_heads, head_dim]
  std::vector<uint16_t> k, v;  // [length, num_kv_heads, head_dim]
  std::vector<int32_t> page_ids;
};

// Sequences and the pages that hold their keys and values, scattered in a random order.
class Cache {
 public:
  Cache(const Shape& shape, const std::vector<int>& lengths, float query_size, uint32_t seed)
      : shape_(shape) {
    std::mt19937 random(seed);
    Noise noise(seed);
    int num_pages = 0;
    for (const int length : lengths) {
      Sequence& sequence = sequences_.emplace_back();
      sequence.length = length;
      const auto rows = static_cast<size_t>(length);
      sequence.q.resize(rows * shape.row_floats());
      for (float& x : sequence.q) x = query_size * noise();
      const size_t kv_size = rows * static_cast<size_t>(shape.num_kv_heads * shape.head_dim);
      for (std::vector<uint16_t>* halves : {&sequence.k, &sequence.v}) {
        halves->resize(kv_size);
        for (uint16_t& half : *halves) half = FloatToHalfFinite(noise());
      }
      for (int i = 0; i < length; i += kPageTokens) sequence.page_ids.push_back(num_pages++);
    }
    std::vector<int32_t> order(static_cast<size_t>(num_pages));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (Sequence& sequence : sequences_) {
      for (int32_t& id : sequence.page_ids) id = order[static_cast<size_t>(id)];
    }
    pages_.resize(static_cast<size_t>(num_pages) * CpuKvPageBytes(shape.spec()) / 2);
    FillPages(0x7E01);  // NaN
  }

  // Every slot that holds no token gets `garbage`.
  void FillPages(uint16_t garbage) {
    std::fill(pages_.begin(), pages_.end(), garbage);
    for (const Sequence& sequence : sequences_) {
      for (int position = 0; position < sequence.length; ++position) StoreToken(sequence, position);
    }
  }

  const Shape& shape() const { return shape_; }
  Sequence& sequence(size_t i) { return sequences_[i]; }
  const Sequence& sequence(size_t i) const { return sequences_[i]; }
  size_t num_sequences() const { return sequences_.size(); }
  const std::byte* pages() const { return reinterpret_cast<const std::byte*>(pages_.data()); }

 private:
  void StoreToken(const Sequence& sequence, int position) {
    const int64_t page_halves = static_cast<int64_t>(CpuKvPageBytes(shape_.spec()) / 2);
    const int64_t page =
        sequence.page_ids[static_cast<size_t>(position / kPageTokens)] * page_halves;
    const int slot = position % kPageTokens;
    for (int h = 0; h < shape_.num_kv_heads; ++h) {
      uint16_t* head = pages_.data() + page + h * KvHeadStride(shape_.head_dim);
      const auto token = static_cast<size_t>(int64_t{position} * shape_.num_kv_heads + h) *
                         static_cast<size_t>(shape_.head_dim);
      for (int d = 0; d < shape_.head_dim; ++d) {
        head[KeyOffset(shape_.head_dim, slot, d)] = sequence.k[token + static_cast<size_t>(d)];
        head[ValueOffset(shape_.head_dim) + int64_t{slot} * PaddedHeadDim(shape_.head_dim) + d] =
            sequence.v[token + static_cast<size_t>(d)];
      }
    }
  }

  Shape shape_;
  std::vector<Sequence> sequences_;
  std::vector<uint16_t> pages_;
};

// Rows of a sequence in one step: positions [end - count, end).
struct Rows {
  size_t sequence;
  int end;
  int count;
};

struct Machine {
  CpuIsa isa = CpuIsa::kAuto;
  int num_threads = 2;
};

std::vector<CpuIsa> SupportedIsas() {
  std::vector<CpuIsa> isas;
  for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (IsSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

// Output rows of one call, in the order of `rows`. Queries are read from inside wider rows.
std::vector<float> Attend(const Cache& cache, const Options& options, const std::vector<Rows>& rows,
                          const Machine& machine) {
  const Shape& shape = cache.shape();
  const size_t row_floats = shape.row_floats();
  const size_t q_stride = row_floats + 24;
  std::vector<int32_t> query_starts = {0}, kv_lengths, page_starts = {0}, page_ids;
  std::vector<float> q;
  for (const Rows& r : rows) {
    const Sequence& sequence = cache.sequence(r.sequence);
    query_starts.push_back(query_starts.back() + r.count);
    kv_lengths.push_back(r.end);
    page_ids.insert(page_ids.end(), sequence.page_ids.begin(), sequence.page_ids.end());
    page_starts.push_back(static_cast<int32_t>(page_ids.size()));
    for (int position = r.end - r.count; position < r.end; ++position) {
      const float* row = &sequence.q[static_cast<size_t>(position) * row_floats];
      q.insert(q.end(), row, row + row_floats);
      q.resize(q.size() + q_stride - row_floats, 1e30f);
    }
  }
  const SequenceBatch batch = {query_starts, kv_lengths, page_starts, page_ids};
  std::vector<float> out(static_cast<size_t>(batch.num_rows()) * row_floats, -777.0f);
  AttentionParams params;
  params.q = q.data();
  params.q_stride = static_cast<int64_t>(q_stride);
  params.out = out.data();
  params.num_heads = shape.num_heads;
  params.spec = shape.spec();
  params.pages = cache.pages();
  params.batch = &batch;
  params.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  params.softcap = options.softcap;
  params.window = options.window;
  params.causal = options.causal;
  WorkerPool pool(machine.num_threads);
  CpuAttention(&pool, machine.isa).Run(params);
  return out;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// One head of one row in float64, with a bound of what fp32 may differ by.
struct ExactRow {
  std::vector<double> values;
  std::vector<double> tolerances;
};

// The bound: a chain of n roundings errs by about 5 sqrt(n) u of the sum of its terms' magnitudes
// with overwhelming probability (Higham and Mary 2019), u = 2^-24. A score's error is a relative
// error of its key's weight; exp2, the rescalings and the rounding of (score - maximum) add theirs.
ExactRow AttendExactly(const Cache& cache, const Options& options, const Rows& rows, int position,
                       int head) {
  const Shape& shape = cache.shape();
  const Sequence& sequence = cache.sequence(rows.sequence);
  const int kv_head = head / (shape.num_heads / shape.num_kv_heads);
  const auto dim = static_cast<size_t>(shape.head_dim);
  const double scale = static_cast<double>(1.0f / std::sqrt(static_cast<float>(shape.head_dim)));
  const float* q =
      &sequence.q[(static_cast<size_t>(position) * static_cast<size_t>(shape.num_heads) +
                   static_cast<size_t>(head)) *
                  dim];
  const int end = options.causal ? position + 1 : rows.end;
  const int begin = options.window > 0 ? std::max(0, position - options.window + 1) : 0;
  const auto token = [&](int key) {
    return (static_cast<size_t>(key) * static_cast<size_t>(shape.num_kv_heads) +
            static_cast<size_t>(kv_head)) *
           dim;
  };
  std::vector<double> scores;
  double largest_product = 0;
  for (int key = begin; key < end; ++key) {
    double dot = 0, magnitude = 0;
    for (size_t d = 0; d < dim; ++d) {
      const double product = double{q[d]} * double{HalfToFloat(sequence.k[token(key) + d])};
      dot += product;
      magnitude += std::fabs(product);
    }
    largest_product = std::max(largest_product, magnitude * scale);
    const double cap = options.softcap;
    scores.push_back(cap == 0 ? dot * scale : cap * std::tanh(dot * scale / cap));
  }
  const double maximum = *std::max_element(scores.begin(), scores.end());
  const double minimum = *std::min_element(scores.begin(), scores.end());
  ExactRow row = {std::vector<double>(dim, 0.0), std::vector<double>(dim, 0.0)};
  double sum = 0;
  for (int key = begin; key < end; ++key) {
    const double weight = std::exp(scores[static_cast<size_t>(key - begin)] - maximum);
    sum += weight;
    for (size_t d = 0; d < dim; ++d) {
      const double value = weight * double{HalfToFloat(sequence.v[token(key) + d])};
      row.values[d] += value;
      row.tolerances[d] += std::fabs(value);
    }
  }
  const double num_keys = end - begin;
  const double relative = 0x1p-24 * (5 * std::sqrt(shape.head_dim + 3.0) * 2 * largest_product +
                                     4 * double{options.softcap} + 2 * (maximum - minimum) +
                                     5 * 2 * std::sqrt(num_keys + num_keys / 16) + 8);
  for (size_t d = 0; d < dim; ++d) {
    row.values[d] /= sum;
    row.tolerances[d] *= relative / sum;
  }
  return row;
}

void ExpectNearExact(const Cache& cache, const Options& options, const std::vector<Rows>& rows,
                     const std::vector<float>& out) {
  const Shape& shape = cache.shape();
  const float* actual = out.data();
  for (const Rows& r : rows) {
    for (int position = r.end - r.count; position < r.end; ++position) {
      for (int head = 0; head < shape.num_heads; ++head, actual += shape.head_dim) {
        // Every head of the first rows, the last and some in between.
        const int row = position - (r.end - r.count);
        if (row > 2 && position + 1 < r.end && (row * 7 + head) % 29 != 0) continue;
        const ExactRow exact = AttendExactly(cache, options, r, position, head);
        for (size_t d = 0; d < exact.values.size(); ++d) {
          ASSERT_NEAR(double{actual[d]}, exact.values[d], exact.tolerances[d])
              << "sequence " << r.sequence << " position " << position << " head " << head
              << " dimension " << d;
        }
      }
    }
  }
}

constexpr Shape kSmolLm = {9, 3, 64};
constexpr Shape kShapes[] = {kSmolLm,    {4, 4, 80}, {8, 1, 96},  {12, 3, 128}, {2, 1, 256},
                             {5, 5, 40}, {6, 2, 72}, {20, 2, 32}, {100, 1, 32}};
constexpr Options kOptions[] = {
    {},
    {.name = "full", .causal = false},
    {.name = "window", .window = 70},
    {.name = "short window", .window = 5},
    {.name = "full with window", .causal = false, .window = 33},
    {.name = "softcap", .softcap = 5.0f},
    {.name = "large scores", .query_size = 30.0f},
};

// Prompts of awkward lengths, chunks in mid-sequence and decode rows, all in one step.
std::vector<Rows> MixedRows() {
  return {{0, 1, 1},    {1, 63, 63},  {2, 64, 64},  {3, 65, 65},  {4, 127, 100},
          {5, 287, 1},  {6, 200, 37}, {7, 130, 2},  {8, 64, 1},   {9, 65, 1},
          {10, 257, 3}, {11, 600, 1}, {12, 512, 1}, {13, 520, 20}};
}

std::vector<int> LengthsFor(const std::vector<Rows>& rows) {
  std::vector<int> lengths;
  lengths.reserve(rows.size());
  for (const Rows& r : rows) lengths.push_back(r.end);
  return lengths;
}

TEST(AttentionTest, MatchesFloat64ForEveryShapeAndMask) {
  const std::vector<Rows> rows = MixedRows();
  for (const Shape& shape : kShapes) {
    for (const Options& options : kOptions) {
      if (shape.head_dim != 64 && &options != &kOptions[0] && &options != &kOptions[4]) continue;
      SCOPED_TRACE(std::string(options.name) + " head_dim " + std::to_string(shape.head_dim));
      const Cache cache(shape, LengthsFor(rows), options.query_size, 1);
      ExpectNearExact(cache, options, rows, Attend(cache, options, rows, {}));
    }
  }
}

TEST(AttentionTest, EveryInstructionSetAndThreadCountGivesTheSameBits) {
  const std::vector<Rows> rows = MixedRows();
  for (const Shape& shape : {kSmolLm, Shape{5, 5, 40}, Shape{8, 1, 96}}) {
    for (const Options& options : kOptions) {
      if (shape.head_dim != 64 && options.softcap == 0) continue;
      SCOPED_TRACE(std::string(options.name) + " head_dim " + std::to_string(shape.head_dim));
      const Cache cache(shape, LengthsFor(rows), options.query_size, 2);
      const std::vector<float> expected = Attend(cache, options, rows, {CpuIsa::kPortable, 1});
      for (const CpuIsa isa : SupportedIsas()) {
        for (const int threads : {1, 2, 3}) {
          // The portable path is slow: once more, on three threads, is enough.
          if (isa == CpuIsa::kPortable && (threads != 3 || &options != &kOptions[0])) continue;
          EXPECT_TRUE(SameBits(Attend(cache, options, rows, {isa, threads}), expected))
              << "isa " << static_cast<int>(isa) << " threads " << threads;
        }
      }
    }
  }
}

TEST(AttentionTest, ASequenceAloneGivesTheBitsItHasInABatch) {
  const std::vector<Rows> rows = MixedRows();
  for (const CpuIsa isa : {CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (!IsSupported(isa)) continue;
    for (const Shape& shape : {kSmolLm, Shape{2, 1, 256}}) {
      for (const Options& options : kOptions) {
        const Cache cache(shape, LengthsFor(rows), options.query_size, 3);
        const std::vector<float> together = Attend(cache, options, rows, {isa, 2});
        size_t first = 0;
        for (const Rows& r : rows) {
          const std::vector<float> alone = Attend(cache, options, {r}, {isa, 1});
          ASSERT_EQ(std::memcmp(alone.data(), &together[first], alone.size() * sizeof(float)), 0)
              << options.name << ", sequence " << r.sequence;
          first += alone.size();
        }
      }
    }
  }
}

// A row alone reads its keys as fp16 from the page, in items cut along the keys; in a whole prefill
// from a converted tile, among 95 others.
TEST(AttentionTest, EveryChunkingOfAPromptGivesTheBitsOfTheWholePrefill) {
  constexpr int kLength = 331;
  for (const CpuIsa isa : {CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (!IsSupported(isa)) continue;
    for (const Options& options : kOptions) {
      if (!options.causal) continue;  // later keys are visible, so chunks differ in meaning
      SCOPED_TRACE(options.name);
      const Cache cache(kSmolLm, {kLength}, options.query_size, 4);
      const std::vector<float> whole = Attend(cache, options, {{0, kLength, kLength}}, {isa, 2});
      for (const int chunk : {1, 7, 64, 100}) {
        std::vector<float> joined;
        for (int start = 0; start < kLength; start += chunk) {
          const int count = std::min(chunk, kLength - start);
          const std::vector<float> part =
              Attend(cache, options, {{0, start + count, count}}, {isa, chunk == 7 ? 3 : 2});
          joined.insert(joined.end(), part.begin(), part.end());
        }
        EXPECT_TRUE(SameBits(joined, whole)) << "chunks of " << chunk;
      }
    }
  }
}

TEST(AttentionTest, WhatStandsInUnusedSlotsChangesNothing) {
  const std::vector<Rows> rows = MixedRows();
  for (const CpuIsa isa : SupportedIsas()) {
    for (const Options& options : {kOptions[0], kOptions[1], kOptions[2]}) {
      if (isa == CpuIsa::kPortable && options.causal) continue;  // it is slow
      Cache cache(kSmolLm, LengthsFor(rows), 1.0f, 5);
      const std::vector<float> with_nan = Attend(cache, options, rows, {isa, 2});
      for (const uint16_t garbage : {uint16_t{0}, uint16_t{0x7C00}, uint16_t{0xFC00}}) {
        cache.FillPages(garbage);
        EXPECT_TRUE(SameBits(Attend(cache, options, rows, {isa, 2}), with_nan)) << garbage;
      }
      EXPECT_TRUE(
          std::all_of(with_nan.begin(), with_nan.end(), [](float x) { return std::isfinite(x); }));
    }
  }
}

// A row whose query is broken must not touch another row, and must stay visibly broken.
TEST(AttentionTest, ANonFiniteQuerySpoilsItsOwnRowAlone) {
  const std::vector<Rows> rows = {{0, 100, 100}, {1, 70, 1}};
  for (const float bad : {std::nanf(""), HUGE_VALF}) {
    for (const CpuIsa isa : SupportedIsas()) {
      Cache cache(kSmolLm, {100, 70}, 1.0f, 6);
      const std::vector<float> expected = Attend(cache, {}, rows, {isa, 2});
      const size_t head_start = 50 * kSmolLm.row_floats() + size_t{4} * 64;
      cache.sequence(0).q[head_start + 7] = bad;
      std::vector<float> out = Attend(cache, {}, rows, {isa, 2});
      for (size_t d = 0; d < 64; ++d) {
        EXPECT_TRUE(std::isnan(out[head_start + d]));
        out[head_start + d] = expected[head_start + d];
      }
      EXPECT_TRUE(SameBits(out, expected));
    }
  }
}

// Row 257 ends at -0: its first split's output, below 0, is scaled by 2^-127 = 0, and its second
// split's products underflow to -0. Multiplied into the same chain, row 258's key (probability 0)
// turns the latter into +0; alone, row 257 never meets it.
TEST(AttentionTest, ANeighboursKeysDoNotChangeTheSignOfAZero) {
  constexpr Shape kShape = {1, 1, 32};
  Cache cache(kShape, {259}, 0.0f, 7);
  Sequence& sequence = cache.sequence(0);
  // The query scale is log2(e) / sqrt(32); these queries make a key's first element its score.
  const auto scale =
      static_cast<float>(static_cast<double>(1.0f / std::sqrt(32.0f)) * 1.4426950408889634);
  for (size_t row = 0; row < 259; ++row) sequence.q[row * 32] = 1.0f / scale;
  ASSERT_EQ(sequence.q[0] * scale, 1.0f);
  const auto set_token = [&](size_t position, float score, float value) {
    std::fill_n(sequence.k.begin() + static_cast<int64_t>(position * 32), 32, uint16_t{0});
    sequence.k[position * 32] = FloatToHalfFinite(score);
    std::fill_n(sequence.v.begin() + static_cast<int64_t>(position * 32), 32,
                FloatToHalfFinite(value));
  };
  for (size_t position = 0; position < 256; ++position) set_token(position, -127.0f, -0x1p-24f);
  set_token(256, -126.0f, -0x1p-24f);
  set_token(257, 0.0f, -0.0f);
  set_token(258, 0.0f, 1.0f);
  cache.FillPages(0);
  for (const CpuIsa isa : SupportedIsas()) {
    const std::vector<float> alone = Attend(cache, {}, {{0, 258, 1}}, {isa, 1});
    const std::vector<float> together = Attend(cache, {}, {{0, 259, 2}}, {isa, 1});
    EXPECT_EQ(alone[0], 0.0f);
    EXPECT_TRUE(SameBits(alone, {together.begin(), together.begin() + 32}));
  }
}

// Long enough that blocks are cut along their keys, with windows that start inside a split.
TEST(AttentionTest, LongSequencesMatchFloat64HoweverTheirKeysAreDivided) {
  const std::vector<Rows> rows = {{0, 3000, 1}, {1, 2048, 5}, {2, 40, 1}};
  for (const Options& options : {kOptions[0], Options{.name = "window", .window = 1500}}) {
    SCOPED_TRACE(options.name);
    const Cache cache(kSmolLm, LengthsFor(rows), 2.0f, 8);
    const std::vector<float> expected = Attend(cache, options, rows, {CpuIsa::kAuto, 1});
    ExpectNearExact(cache, options, rows, expected);
    for (const CpuIsa isa : SupportedIsas()) {
      for (const int threads : {2, 5}) {
        EXPECT_TRUE(SameBits(Attend(cache, options, rows, {isa, threads}), expected))
            << "isa " << static_cast<int>(isa) << " threads " << threads;
      }
    }
  }
}

}  // namespace
}  // namespace tessera
