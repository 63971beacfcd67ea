#include <random>

#include "kernels/cuda/instr.h"
#include "kernels/cuda/launch.h"
#include "tests/kernels/simt/conformance.h"

namespace tessera::conformance {
namespace {

using namespace tessera::TESSERA_CUDA_NAMESPACE;

// ---- ldmatrix ----

// out: [32 lanes][kMatrices]. The matrices lie row after row, each element its own index.
template <int kMatrices, bool kTransposed>
__global__ void LoadMatrixKernel(uint32_t* out) {
  TESSERA_SHARED(uint4[kMatrices * 8], rows);
  auto* elements = reinterpret_cast<uint16_t*>(rows);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < kMatrices * 64; i += 32) elements[i] = static_cast<uint16_t>(i);
  __syncwarp();
  uint32_t registers[kMatrices];
  const uint4* row = &rows[lane % (kMatrices * 8)];
  if constexpr (kMatrices == 4) {
    kTransposed ? LoadMatrix4Transposed(registers, row) : LoadMatrix4(registers, row);
  } else {
    kTransposed ? LoadMatrix2Transposed(registers, row) : LoadMatrix2(registers, row);
  }
  for (int j = 0; j < kMatrices; ++j) out[lane * kMatrices + j] = registers[j];
}

template <int kMatrices, bool kTransposed>
void CheckLoadMatrix(Checker& checker) {
  const DeviceArray<uint32_t> out(32 * kMatrices);
  const Stream stream;
  Launch<LoadMatrixKernel<kMatrices, kTransposed>>(stream, 1, 32, 0, out.data());
  stream.Synchronize();
  const std::vector<uint32_t> got = out.ToHost();
  for (int lane = 0; lane < 32; ++lane) {
    for (int j = 0; j < kMatrices; ++j) {
      for (int half = 0; half < 2; ++half) {
        const int fixed = lane / 4, paired = lane % 4 * 2 + half;
        const int element = kTransposed ? paired * 8 + fixed : fixed * 8 + paired;
        const uint32_t value = got[lane * kMatrices + j] >> (16 * half) & 0xFFFF;
        checker.ExpectEqual<uint32_t>(value, static_cast<uint32_t>(j * 64 + element), "element",
                                      (lane * kMatrices + j) * 2 + half);
      }
    }
  }
}

// ---- mma ----

// One warp a block: c += a b, row-major a [16][16], b [16][8], c [16][8], by fragments as PTX
// defines them, without ldmatrix.
template <typename T>
__global__ void MmaKernel(const T* a, const T* b, float* c) {
  a += blockIdx.x * 256;
  b += blockIdx.x * 128;
  c += blockIdx.x * 128;
  const int g = static_cast<int>(threadIdx.x) / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
  const auto pair = [](T low, T high) { return low.bits | static_cast<uint32_t>(high.bits) << 16; };
  uint32_t a_fragment[4], b_fragment[2];
  float accumulator[4];
  for (int i = 0; i < 4; ++i) {
    const T* at = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
    a_fragment[i] = pair(at[0], at[1]);
    accumulator[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  }
  for (int i = 0; i < 2; ++i) {
    const T* at = b + (2 * t + i * 8) * 8 + g;
    b_fragment[i] = pair(at[0], at[8]);
  }
  Mma16816<T>(accumulator, a_fragment, b_fragment[0], b_fragment[1]);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = accumulator[i];
}

// Integers, so small that every sum is exact in any order.
struct MmaProblem {
  std::vector<int> a, b, c;  // [count][16][16], [count][16][8], [count][16][8]
};

template <typename T>
void CheckMma(Checker& checker, const MmaProblem& problem) {
  const auto convert = [](const std::vector<int>& values) {
    std::vector<T> converted;
    for (int value : values) converted.push_back(FromFloat<T>(static_cast<float>(value)));
    return converted;
  };
  const size_t count = problem.a.size() / 256;
  const DeviceArray<T> a(convert(problem.a)), b(convert(problem.b));
  const DeviceArray<float> c(std::vector<float>(problem.c.begin(), problem.c.end()));
  const Stream stream;
  Launch<MmaKernel<T>>(stream, static_cast<unsigned>(count), 32, 0, a.data(), b.data(), c.data());
  stream.Synchronize();
  const std::vector<float> got = c.ToHost();
  for (size_t i = 0; i < problem.c.size(); ++i) {
    const int* row = &problem.a[i / 128 * 256 + i % 128 / 8 * 16];
    const int* column = &problem.b[i / 128 * 128 + i % 8];
    int want = problem.c[i];
    for (int k = 0; k < 16; ++k) want += row[k] * column[k * 8];
    checker.ExpectEqual(got[i], static_cast<float>(want), "c", static_cast<long>(i));
  }
}

template <typename T>
void CheckMmaRandom(Checker& checker) {
  std::mt19937 random(7);
  const auto fill = [&](size_t size, int limit) {
    std::vector<int> values(size);
    for (int& value : values) value = static_cast<int>(random() % (2 * limit + 1)) - limit;
    return values;
  };
  constexpr size_t kCount = 64;
  CheckMma<T>(checker, {fill(kCount * 256, 16), fill(kCount * 128, 16), fill(kCount * 128, 1000)});
}

// A with one element of 1 picks one row of a B whose elements all differ, and the other way round:
// each element of each fragment is seen on its own.
template <typename T>
void CheckMmaElements(Checker& checker) {
  MmaProblem problem;
  for (int one = 0; one < 256 + 128; ++one) {
    for (int i = 0; i < 256; ++i) problem.a.push_back(one < 256 ? i == one : i % 256 - 128);
    for (int i = 0; i < 128; ++i) problem.b.push_back(one < 256 ? i + 1 : i == one - 256);
    for (int i = 0; i < 128; ++i) problem.c.push_back(1000 + i);
  }
  CheckMma<T>(checker, problem);
}

// ---- the shapes that attention is made of ----

// s = q k^T and o = s v for 16 rows, 16 keys, 16 dimensions: q and k by ldmatrix, v transposed, and
// the accumulator of the first product packed into the second's operand.
__global__ void TwoProductsKernel(const Bf16* q, const Bf16* k, const Bf16* v, float* o) {
  TESSERA_SHARED(uint4[3 * 32], tiles);
  auto* halves = reinterpret_cast<Bf16*>(tiles);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) {
    halves[i] = q[i];
    halves[256 + i] = k[i];
    halves[512 + i] = v[i];
  }
  __syncthreads();
  uint32_t q_fragment[4], k_fragment[4], v_fragment[4];
  LoadMatrix4(q_fragment, halves + (lane % 16) * 16 + lane / 16 * 8);
  LoadMatrix4(k_fragment, halves + 256 + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
  LoadMatrix4Transposed(v_fragment, halves + 512 + (lane % 16) * 16 + lane / 16 * 8);
  float s[2][4] = {}, out[2][4] = {};
  for (int j = 0; j < 2; ++j) {
    Mma16816<Bf16>(s[j], q_fragment, k_fragment[2 * j], k_fragment[2 * j + 1]);
  }
  const uint32_t p[4] = {Pack2<Bf16>(s[0][0], s[0][1]), Pack2<Bf16>(s[0][2], s[0][3]),
                         Pack2<Bf16>(s[1][0], s[1][1]), Pack2<Bf16>(s[1][2], s[1][3])};
  for (int j = 0; j < 2; ++j) {
    Mma16816<Bf16>(out[j], p, v_fragment[2 * j], v_fragment[2 * j + 1]);
    for (int i = 0; i < 4; ++i) {
      o[(lane / 4 + i / 2 * 8) * 16 + j * 8 + lane % 4 * 2 + i % 2] = out[j][i];
    }
  }
}

void CheckTwoProducts(Checker& checker) {
  std::mt19937 random(9);
  int values[3][16][16];
  std::vector<Bf16> halves[3];
  for (int m = 0; m < 3; ++m) {
    for (int i = 0; i < 256; ++i) {
      values[m][i / 16][i % 16] =
          static_cast<int>(random() % 5) - 2;  // |q k^T| <= 64: exact in bf16
      halves[m].push_back(FromFloat<Bf16>(static_cast<float>(values[m][i / 16][i % 16])));
    }
  }
  const DeviceArray<Bf16> q(halves[0]), k(halves[1]), v(halves[2]);
  const DeviceArray<float> o(256);
  const Stream stream;
  Launch<TwoProductsKernel>(stream, 1, 32, 0, q.data(), k.data(), v.data(), o.data());
  stream.Synchronize();
  const std::vector<float> got = o.ToHost();
  for (int i = 0; i < 256; ++i) {
    int want = 0;
    for (int key = 0; key < 16; ++key) {
      int score = 0;
      for (int d = 0; d < 16; ++d) score += values[0][i / 16][d] * values[1][key][d];
      want += score * values[2][key][i % 16];
    }
    checker.ExpectEqual(got[i], static_cast<float>(want), "o", i);
  }
}

}  // namespace

std::vector<Case> MatrixCases() {
  return {{"ldmatrix.x4", CheckLoadMatrix<4, false>},
          {"ldmatrix.x4.trans", CheckLoadMatrix<4, true>},
          {"ldmatrix.x2", CheckLoadMatrix<2, false>},
          {"ldmatrix.x2.trans", CheckLoadMatrix<2, true>},
          {"mma bf16, integers", CheckMmaRandom<Bf16>},
          {"mma fp16, integers", CheckMmaRandom<Fp16>},
          {"mma bf16, every fragment element", CheckMmaElements<Bf16>},
          {"mma fp16, every fragment element", CheckMmaElements<Fp16>},
          {"two chained products", CheckTwoProducts}};
}

}  // namespace tessera::conformance
