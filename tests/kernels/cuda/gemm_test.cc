// The GEMM family against float64, and the one promise that matters most: the same bits for every
// number of rows, every place in the batch and every tile.

#include "kernels/cuda/gemm.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "kernels/quant_blocks.h"
#include "tests/kernels/cuda/op_cases.h"
#include "tests/kernels/cuda/op_inputs.h"

namespace tessera::conformance {
namespace {

template <typename T>
struct Product {
  std::vector<float> f32;  // [num_rows, stride], poison unless out is fp32
  std::vector<T> rounded;  // likewise, poison if out is fp32
};

constexpr float kPoison = -12345.0f;

template <typename T>
struct Problem {
  Problem(std::vector<FileWeight> file_weights, int max_rows, uint32_t seed)
      : files(std::move(file_weights)) {
    x = Rounded<T>(RandomFloats(static_cast<size_t>(max_rows * files[0].cols), 1.0f, seed));
    for (const FileWeight& file : files) {
      weights.emplace_back(file, StoredType<T>(file.type));
      num_outputs += file.rows;
    }
  }

  int cols() const { return files[0].cols; }

  std::vector<FileWeight> files;
  std::vector<T> x;  // [max_rows, cols]
  std::vector<DeviceWeight> weights;
  int num_outputs = 0;
};

// Rows [first_row, first_row + num_rows) of x.
template <typename T>
Product<T> Multiply(const Problem<T>& problem, int first_row, int num_rows, GemmTileSize size,
                    bool out_is_f32, int padding = 0) {
  const auto begin = problem.x.begin() + int64_t{first_row} * problem.cols();
  const DeviceArray<T> x(std::vector<T>(begin, begin + int64_t{num_rows} * problem.cols()));
  const int stride = problem.num_outputs + padding;
  const auto out_size = static_cast<size_t>(num_rows) * static_cast<size_t>(stride);
  const std::vector<float> poison(out_size, kPoison);
  const DeviceArray<float> f32(poison);
  const DeviceArray<T> rounded(Rounded<T>(poison));
  GemmParams params;
  params.x = x.data();
  params.num_rows = num_rows;
  params.num_weights = static_cast<int>(problem.weights.size());
  for (size_t i = 0; i < problem.weights.size(); ++i) params.weights[i] = problem.weights[i].view();
  params.out = out_is_f32 ? static_cast<void*>(f32.data()) : static_cast<void*>(rounded.data());
  params.out_stride = stride;
  params.out_is_f32 = out_is_f32;
  const Stream stream;
  GemmWithTile<T>(size, params, stream);
  stream.Synchronize();
  return {f32.ToHost(), rounded.ToHost()};
}

// A weight's rows as the device multiplies them: floats rounded to T, quantised ones exact; and for
// each element the largest magnitude that its parts d q and m have.
struct ExactWeight {
  std::vector<double> values, magnitudes;  // [rows, cols]
};

template <typename T>
ExactWeight MakeExact(const FileWeight& file) {
  const auto cols = static_cast<size_t>(file.cols);
  ExactWeight exact;
  if (!IsQuantized(StoredType<T>(file.type))) {
    for (const float value : file.Dequantized()) {
      exact.values.push_back(ToFloat(FromFloat<T>(value)));
      exact.magnitudes.push_back(std::fabs(exact.values.back()));
    }
    return exact;
  }
  for (size_t row = 0; row < static_cast<size_t>(file.rows); ++row) {
    const std::byte* bytes = file.bytes.data() + row * RowBytes(file.type, file.cols);
    for (size_t col = 0; col < cols; ++col) {
      const QuantBlock block =
          DecodeQuantBlock(file.type, bytes, static_cast<int64_t>(col / kQuantBlock));
      const BlockScales scales = ScalesOf(file.type, block);
      const size_t i = col % kQuantBlock;
      const double product = double{scales.d[i / 16]} * block.q[i];
      exact.values.push_back(product + double{scales.m});
      exact.magnitudes.push_back(std::fabs(product) + std::fabs(double{scales.m}));
    }
  }
  return exact;
}

// A sum of K products, each rounded at most K times on its way (the tensor cores truncate, so by
// 2^-23), has error <= 1.01 K 2^-23 sum |x| |w|; scales and minima add two roundings a block of 32.
template <typename T>
void CheckAgainstExact(Checker& checker, const Problem<T>& problem, const std::vector<float>& got,
                       int num_rows, int stride, bool rounded) {
  const auto cols = static_cast<size_t>(problem.cols());
  const double roundings = 1.01 * 0x1p-23 * (problem.cols() + 2.0 * problem.cols() / 32 + 2);
  size_t first_out = 0;
  for (const FileWeight& file : problem.files) {
    const ExactWeight weight = MakeExact<T>(file);
    for (size_t row = 0; row < static_cast<size_t>(num_rows); ++row) {
      for (size_t n = 0; n < static_cast<size_t>(file.rows); ++n) {
        double want = 0, magnitude = 0;
        for (size_t k = 0; k < cols; ++k) {
          const double x = ToFloat(problem.x[row * cols + k]);
          want += x * weight.values[n * cols + k];
          magnitude += std::fabs(x) * weight.magnitudes[n * cols + k];
        }
        const double sum_error = roundings * magnitude;
        const double bound =
            sum_error + (rounded ? RoundingBound<T>(std::fabs(want) + sum_error) : 0);
        const size_t index = row * static_cast<size_t>(stride) + first_out + n;
        ExpectNear(checker, got[index], want, bound, Name(file.type), index);
      }
    }
    first_out += static_cast<size_t>(file.rows);
  }
}

constexpr GemmTileSize kAllTiles[] = {GemmTileSize::k16Rows, GemmTileSize::k64Rows,
                                      GemmTileSize::k128Rows};

struct Shape {
  int num_rows, num_outputs, cols;
};

template <typename T>
void CheckShapes(Checker& checker) {
  for (const DType type : kAllDTypes) {
    const int unit = std::max(8, BlockElements(type));
    for (const auto& [num_rows, num_outputs, units] :
         {Shape{1, 1, 1}, Shape{3, 33, 3}, Shape{17, 130, 5}, Shape{70, 67, 2}}) {
      const Problem<T> problem({RandomWeight(type, num_outputs, units * unit, 1)}, num_rows, 2);
      for (const GemmTileSize size : kAllTiles) {
        const auto f32 = Multiply(problem, 0, num_rows, size, true).f32;
        CheckAgainstExact(checker, problem, f32, num_rows, num_outputs, false);
      }
      const auto rounded = Multiply(problem, 0, num_rows, ChooseGemmTile(num_rows), false).rounded;
      CheckAgainstExact(checker, problem, Widened(rounded), num_rows, num_outputs, true);
    }
  }
}

template <typename T>
void CheckRowIndependence(Checker& checker) {
  constexpr int kMaxRows = 500;
  constexpr int kOutputs = 40;
  for (const DType type :
       {DType::kBf16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ4_K, DType::kQ6_K}) {
    const Problem<T> problem({RandomWeight(type, kOutputs, 512, 3)}, kMaxRows, 4);
    const auto all = Multiply(problem, 0, kMaxRows, GemmTileSize::k128Rows, true).f32;
    const auto expect_rows = [&](int first_row, int num_rows, GemmTileSize size) {
      const auto part = Multiply(problem, first_row, num_rows, size, true).f32;
      for (size_t i = 0; i < part.size(); ++i) {
        const size_t at = static_cast<size_t>(first_row * kOutputs) + i;
        checker.ExpectEqual(std::bit_cast<uint32_t>(part[i]), std::bit_cast<uint32_t>(all[at]),
                            Name(type).data(), static_cast<long>(at));
      }
    };
    for (const int num_rows : {1, 2, 3, 8, 16, 17, 64, 128, 500}) {
      expect_rows(0, num_rows, ChooseGemmTile(num_rows));
      expect_rows(kMaxRows - num_rows, num_rows, ChooseGemmTile(num_rows));
    }
    for (const GemmTileSize size : kAllTiles) expect_rows(123, 50, size);
  }
}

// q, k and v in one launch, k and v at odd columns, and room behind each row left alone.
template <typename T>
void CheckSideBySide(Checker& checker) {
  for (const DType type : {DType::kBf16, DType::kQ8_0, DType::kQ4_K}) {
    constexpr int kCols = 512;
    constexpr int kPadding = 3;
    const std::vector<FileWeight> files = {RandomWeight(type, 97, kCols, 5),
                                           RandomWeight(type, 34, kCols, 6),
                                           RandomWeight(type, 33, kCols, 7)};
    const Problem<T> problem(files, 20, 8);
    const int stride = problem.num_outputs + kPadding;
    for (const GemmTileSize size : kAllTiles) {
      const auto f32 = Multiply(problem, 0, 20, size, true, kPadding).f32;
      CheckAgainstExact(checker, problem, f32, 20, stride, false);
      const auto rounded = Widened(Multiply(problem, 0, 20, size, false, kPadding).rounded);
      CheckAgainstExact(checker, problem, rounded, 20, stride, true);
      for (size_t i = 0; i < f32.size(); ++i) {
        const bool is_padding =
            i % static_cast<size_t>(stride) >= static_cast<size_t>(problem.num_outputs);
        if (!is_padding) continue;
        checker.ExpectEqual(f32[i], kPoison, "fp32 padding", static_cast<long>(i));
        checker.ExpectEqual(rounded[i], ToFloat(FromFloat<T>(kPoison)), "padding",
                            static_cast<long>(i));
      }
    }
  }
}

}  // namespace

std::vector<Case> GemmCases() {
  return {
      {"gemm: all types and odd shapes near float64, bf16", CheckShapes<Bf16>},
      {"gemm: all types and odd shapes near float64, fp16", CheckShapes<Fp16>},
      {"gemm: a row's bits do not depend on M, place or tile, bf16", CheckRowIndependence<Bf16>},
      {"gemm: a row's bits do not depend on M, place or tile, fp16", CheckRowIndependence<Fp16>},
      {"gemm: weights side by side, bf16", CheckSideBySide<Bf16>},
      {"gemm: weights side by side, fp16", CheckSideBySide<Fp16>}};
}

}  // namespace tessera::conformance
