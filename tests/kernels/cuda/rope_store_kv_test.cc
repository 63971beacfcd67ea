// RoPE, normalised heads, what is stored in pages, and the copy of a page, against float64.

#include "kernels/cuda/rope_store_kv.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/half_bits.h"
#include "kernels/cuda/kv_page.h"
#include "tests/kernels/cuda/attention_run.h"

namespace tessera::conformance {
namespace {

struct Shape {
  DType type;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int rope_dim;
  bool normalises = false;

  int num_units() const { return num_heads + 2 * num_kv_heads; }
  size_t dim() const { return static_cast<size_t>(head_dim); }
  size_t row_size() const { return static_cast<size_t>(num_units()) * dim(); }
  KvSpec spec() const { return {num_kv_heads, head_dim}; }
  std::string name() const {
    return std::string(type == DType::kBf16 ? "bf16 " : "fp16 ") + std::to_string(num_heads) + "/" +
           std::to_string(num_kv_heads) + " heads of " + std::to_string(head_dim) + ", rope " +
           std::to_string(rope_dim) + (normalises ? ", normalised" : "");
  }
};

constexpr int kMaxPositions = 300;
constexpr int kNumPages = 12;
constexpr float kEpsilon = 1e-6f;

uint16_t ToBits(DType type, float value) {
  return type == DType::kBf16 ? FloatToBf16Bits(value) : FloatToFp16Bits(value);
}

float FromBits(DType type, uint16_t bits) {
  return type == DType::kBf16 ? Bf16BitsToFloat(bits) : Fp16BitsToFloat(bits);
}

std::vector<float> RandomFloats(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

// A 5-token chunk at position 62, across two pages, and two decode rows; then padding rows.
struct Rows {
  std::vector<int32_t> query_starts = {0, 5, 6, 7};
  std::vector<int32_t> kv_lengths = {67, 10, 131};
  std::vector<int32_t> page_starts = {0, 2, 3, 6};
  std::vector<int32_t> page_ids = {7, 2, 11, 4, 0, 9};
  std::vector<TokenId> tokens = std::vector<TokenId>(7);
  int num_padding_rows = 2;

  SequenceBatch batch() const { return {query_starts, kv_lengths, page_starts, page_ids}; }
  int num_rows() const { return query_starts.back() + num_padding_rows; }
};

struct Tables {
  std::vector<float> cosines, sines;
  std::vector<float> q_norm, k_norm;

  explicit Tables(const Shape& shape)
      : q_norm(RandomFloats(static_cast<size_t>(shape.head_dim), 21)),
        k_norm(RandomFloats(static_cast<size_t>(shape.head_dim), 22)) {
    for (int position = 0; position < kMaxPositions; ++position) {
      for (int i = 0; i < shape.rope_dim / 2; ++i) {
        const double angle = position * std::pow(10000.0, -2.0 * i / shape.rope_dim);
        cosines.push_back(static_cast<float>(std::cos(angle)));
        sines.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
};

struct Result {
  std::vector<uint16_t> qkv;
  std::vector<uint16_t> pages;
  std::vector<uint8_t> faults;
};

Result Run(const Shape& shape, const Rows& rows, const Tables& tables,
           const std::vector<uint16_t>& qkv) {
  const SequenceBatch batch = rows.batch();
  const StepRows step = {rows.tokens, &batch, {}};
  const cuda::StepPadding padding = {.num_rows = rows.num_padding_rows};
  std::vector<uint64_t> packed(cuda::PackedStepBytes(step, padding) / 8);
  const cuda::DeviceArray<uint64_t> device_step(packed.size());
  const cuda::StepView view = cuda::PackStep(step, padding, packed.data(), device_step.data());
  cuda::CopyToDevice(device_step.data(), packed.data(), packed.size() * 8);
  const cuda::DeviceArray<uint16_t> device_qkv(qkv);
  const cuda::DeviceArray<uint16_t> pages(
      std::vector<uint16_t>(kNumPages * cuda::KvPageBytes(shape.spec()) / 2, 0x7FFF));
  const cuda::DeviceArray<uint8_t> faults(
      std::vector<uint8_t>(static_cast<size_t>(rows.num_rows()), 0));
  const cuda::DeviceArray<float> cosines(tables.cosines), sines(tables.sines);
  const cuda::DeviceArray<float> q_norm(tables.q_norm), k_norm(tables.k_norm);
  const cuda::Stream stream;
  cuda::LaunchRopeStoreKv(stream, {.type = shape.type,
                                   .qkv = device_qkv.data(),
                                   .num_heads = shape.num_heads,
                                   .spec = shape.spec(),
                                   .pages = pages.data(),
                                   .step = view,
                                   .rope_cos = cosines.data(),
                                   .rope_sin = sines.data(),
                                   .rope_dim = shape.rope_dim,
                                   .q_norm = shape.normalises ? q_norm.data() : nullptr,
                                   .k_norm = shape.normalises ? k_norm.data() : nullptr,
                                   .norm_epsilon = kEpsilon,
                                   .row_faults = faults.data()});
  stream.Synchronize();
  return {device_qkv.ToHost(), pages.ToHost(), faults.ToHost()};
}

std::vector<uint16_t> RandomQkv(const Shape& shape, int num_rows, uint32_t seed) {
  const size_t size = static_cast<size_t>(num_rows) * shape.row_size();
  std::vector<uint16_t> bits;
  for (const float value : RandomFloats(size, seed)) bits.push_back(ToBits(shape.type, value));
  return bits;
}

// One head after normalisation and rotation, in float64.
std::vector<double> ExactHead(const Shape& shape, const Tables& tables, const uint16_t* bits,
                              int unit, int position) {
  const auto dim = static_cast<size_t>(shape.head_dim);
  std::vector<double> x(dim);
  double squares = 0;
  for (size_t d = 0; d < dim; ++d) {
    x[d] = FromBits(shape.type, bits[d]);
    squares += x[d] * x[d];
  }
  if (unit >= shape.num_heads + shape.num_kv_heads) return x;
  if (shape.normalises) {
    const std::vector<float>& weight = unit < shape.num_heads ? tables.q_norm : tables.k_norm;
    const double factor = 1 / std::sqrt(squares / shape.head_dim + double{kEpsilon});
    for (size_t d = 0; d < dim; ++d) x[d] *= factor * double{weight[d]};
  }
  const auto half = static_cast<size_t>(shape.rope_dim / 2);
  for (size_t i = 0; i < half; ++i) {
    const double cosine = tables.cosines[static_cast<size_t>(position) * half + i];
    const double sine = tables.sines[static_cast<size_t>(position) * half + i];
    const double a = x[i], b = x[i + half];
    x[i] = a * cosine - b * sine;
    x[i + half] = b * cosine + a * sine;
  }
  return x;
}

// Two fp32 roundings a rotation and six of the norm, of values as large as the head's largest; then
// one rounding to T.
void ExpectNear(const Shape& shape, const std::vector<double>& exact, const uint16_t* bits,
                const std::string& where, Checker& checker) {
  const double u = shape.type == DType::kBf16 ? 0x1p-8 : 0x1p-11;
  double largest = 0;
  for (const double value : exact) largest = std::max(largest, std::fabs(value));
  for (size_t d = 0; d < exact.size(); ++d) {
    const double actual = FromBits(shape.type, bits[d]);
    const int num_roundings = shape.head_dim / 16 + 16;
    const double tolerance = u * std::fabs(exact[d]) + largest * num_roundings * 0x1p-23 + 0x1p-24;
    checker.Expect(std::fabs(actual - exact[d]) <= tolerance,
                   where + " dimension " + std::to_string(d) + ": " + std::to_string(actual) +
                       ", expected " + std::to_string(exact[d]));
  }
}

const uint16_t* PageEntry(const Shape& shape, const Rows& rows, const Result& result, int sequence,
                          int position, int unit) {
  const cuda::KvPageLayout layout(shape.spec());
  const auto i = static_cast<size_t>(sequence);
  const int page = rows.page_starts[i] + position / kPageTokens;
  const int head = (unit - shape.num_heads) % shape.num_kv_heads;
  const int64_t offset =
      layout.KeyOffset(rows.page_ids[static_cast<size_t>(page)], head, position % kPageTokens) +
      (unit >= shape.num_heads + shape.num_kv_heads ? layout.KeyElements() : 0);
  return result.pages.data() + offset;
}

void MatchesFloat64(const Shape& shape, Checker& checker) {
  const Rows rows;
  const Tables tables(shape);
  const std::vector<uint16_t> qkv = RandomQkv(shape, rows.num_rows(), 1);
  const Result result = Run(shape, rows, tables, qkv);
  const auto dim = static_cast<size_t>(shape.head_dim);
  size_t num_stored = 0;
  for (int sequence = 0; sequence < 3; ++sequence) {
    const auto i = static_cast<size_t>(sequence);
    for (int row = rows.query_starts[i]; row < rows.query_starts[i + 1]; ++row) {
      const int position = rows.kv_lengths[i] - (rows.query_starts[i + 1] - row);
      for (int unit = 0; unit < shape.num_units(); ++unit) {
        const size_t head =
            static_cast<size_t>(row) * shape.row_size() + static_cast<size_t>(unit) * dim;
        const bool stored = unit >= shape.num_heads;
        num_stored += stored ? dim : 0;
        ExpectNear(
            shape, ExactHead(shape, tables, &qkv[head], unit, position),
            stored ? PageEntry(shape, rows, result, sequence, position, unit) : &result.qkv[head],
            "row " + std::to_string(row) + " head " + std::to_string(unit), checker);
      }
    }
  }
  // Nothing else was written, and no row was flagged.
  const auto num_written =
      result.pages.size() -
      static_cast<size_t>(std::count(result.pages.begin(), result.pages.end(), uint16_t{0x7FFF}));
  checker.ExpectEqual(num_written, num_stored, "stored elements", 0);
  checker.ExpectEqual(std::count(result.faults.begin(), result.faults.end(), 0),
                      static_cast<long>(result.faults.size()), "rows without fault", 0);
}

// A row among others, and the same as the only row of its step.
void SameBitsAlone(const Shape& shape, Checker& checker) {
  const Rows rows;
  const Tables tables(shape);
  const std::vector<uint16_t> qkv = RandomQkv(shape, rows.num_rows(), 2);
  const Result together = Run(shape, rows, tables, qkv);
  Rows alone = {{0, 1}, {66}, {0, 2}, {7, 2}, std::vector<TokenId>(1), 0};
  const auto row_size = static_cast<ptrdiff_t>(shape.row_size());
  constexpr int kRow = 3;  // at position 65
  const std::vector<uint16_t> row(qkv.begin() + kRow * row_size,
                                  qkv.begin() + (kRow + 1) * row_size);
  const Result single = Run(shape, alone, tables, row);
  checker.Expect(
      std::equal(single.qkv.begin(), single.qkv.end(), together.qkv.begin() + kRow * row_size),
      "queries differ");
  for (int unit = shape.num_heads; unit < shape.num_units(); ++unit) {
    const uint16_t* expected = PageEntry(shape, rows, together, 0, 65, unit);
    checker.Expect(std::equal(expected, expected + shape.head_dim,
                              PageEntry(shape, alone, single, 0, 65, unit)),
                   "stored head " + std::to_string(unit) + " differs");
  }
}

void StoresFiniteValuesAndFlagsRows(const Shape& shape, Checker& checker) {
  const Rows rows;
  const Tables tables(shape);
  std::vector<uint16_t> qkv = RandomQkv(shape, rows.num_rows(), 3);
  const float infinity = std::numeric_limits<float>::infinity();
  const int value_unit = shape.num_heads + shape.num_kv_heads;
  const auto poison = [&](int row, int unit, int d, float value) {
    const int index = (row * shape.num_units() + unit) * shape.head_dim + d;
    qkv[static_cast<size_t>(index)] = ToBits(shape.type, value);
  };
  poison(0, value_unit, 1, NAN);
  poison(1, value_unit, 2, -infinity);
  poison(2, shape.num_heads, 3, infinity);  // a key
  poison(4, 0, 0, NAN);                     // a query: its own row's business
  poison(7, value_unit, 0, NAN);            // a padding row
  const Result result = Run(shape, rows, tables, qkv);
  const std::vector<uint8_t> expected = {1, 1, 1, 0, 0, 0, 0, 0, 0};
  for (size_t i = 0; i < expected.size(); ++i) {
    checker.ExpectEqual(int{result.faults[i]}, int{expected[i]}, "fault", static_cast<long>(i));
  }
  checker.ExpectEqual(int{PageEntry(shape, rows, result, 0, 62, value_unit)[1]}, 0, "NaN", 0);
  const uint16_t lowest = shape.type == DType::kBf16 ? 0xFF7F : 0xFBFF;
  checker.ExpectEqual(int{PageEntry(shape, rows, result, 0, 63, value_unit)[2]}, int{lowest},
                      "-infinity", 0);
  for (const uint16_t bits : result.pages) {
    if (bits == 0x7FFF) continue;  // never written
    checker.Expect(std::isfinite(FromBits(shape.type, bits)), "a stored value is not finite");
  }
}

void CopiesPages(const Shape& shape, Checker& checker) {
  const size_t page = cuda::KvPageBytes(shape.spec()) / 2;
  std::vector<uint16_t> before(3 * page);
  for (size_t i = 0; i < before.size(); ++i) before[i] = static_cast<uint16_t>(i * 7 + 1);
  const cuda::DeviceArray<uint16_t> pages(before);
  constexpr int kTokens = 37;
  const cuda::Stream stream;
  cuda::LaunchCopyPage(stream, shape.spec(), pages.data(), 2, 0, kTokens);
  stream.Synchronize();
  const std::vector<uint16_t> after = pages.ToHost();
  const size_t tile = kPageTokens * shape.dim();
  for (size_t i = 0; i < after.size(); ++i) {
    const bool copied = i < page && i % tile < kTokens * shape.dim();
    checker.ExpectEqual(int{after[i]}, int{before[copied ? i + 2 * page : i]}, "element",
                        static_cast<long>(i));
  }
}

}  // namespace

std::vector<AttentionCase> RopeStoreKvCases() {
  const std::vector<Shape> shapes = {
      {DType::kBf16, 9, 3, 64, 64},         {DType::kF16, 4, 1, 128, 128},
      {DType::kBf16, 5, 5, 80, 32},         {DType::kBf16, 3, 1, 96, 96, true},
      {DType::kBf16, 8, 2, 128, 128, true}, {DType::kF16, 2, 1, 192, 64},
      {DType::kBf16, 2, 1, 256, 256, true}, {DType::kBf16, 7, 1, 32, 0},
  };
  std::vector<AttentionCase> cases;
  for (const Shape& shape : shapes) {
    const auto add = [&](const char* name, void (*run)(const Shape&, Checker&)) {
      cases.push_back({std::string("rope_store_kv ") + name + ": " + shape.name(),
                       [shape, run](Checker& checker) { run(shape, checker); }});
    };
    add("matches float64", MatchesFloat64);
    add("gives the same bits alone", SameBitsAlone);
    add("stores finite values and flags rows", StoresFiniteValuesAndFlagsRows);
    add("copies pages", CopiesPages);
  }
  return cases;
}

}  // namespace tessera::conformance
