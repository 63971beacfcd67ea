#pragma once

// Included by row_kernels_{portable,avx2,avx512}.cc, each compiled for its own instruction set.

#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/vector_math.h"

namespace tessera {
namespace {

constexpr int64_t kLanes = 16;

// Calls body(i, load, store) for each vector of [0, dim); beyond dim loads give 0 and stores do
// nothing.
template <typename Body>
SIMD_INLINE void ForEachVector(int64_t dim, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    body(
        i, [](const float* p) { return Load(p); }, [](float* p, F32x16 v) { Store(p, v); });
  }
  const int rest = static_cast<int>(dim - i);
  if (rest == 0) return;
  body(
      i, [rest](const float* p) { return LoadFirst(p, rest); },
      [rest](float* p, F32x16 v) { StoreFirst(p, v, rest); });
}

SIMD_INLINE float InverseRms(F32x16 square_sums, int64_t dim, float epsilon) {
  const float mean = ReduceAdd(square_sums) / static_cast<float>(dim);
  return 1.0f / Sqrt(F32x1{mean + epsilon}).v;
}

SIMD_INLINE void Normalize(const float* x, const float* weight, float inverse_rms, int64_t dim,
                           float* out) {
  const F32x16 scale = F32x16::Broadcast(inverse_rms);
  ForEachVector(dim, [&](int64_t i, auto load, auto store) {
    store(out + i, (load(x + i) * scale) * load(weight + i));
  });
}

void RmsNormRows(const float* x, const float* weight, float epsilon, int64_t num_rows, int64_t dim,
                 float* out) {
  for (int64_t row = 0; row < num_rows; ++row, x += dim, out += dim) {
    F32x16 sums = F32x16::Zero();
    ForEachVector(dim, [&](int64_t i, auto load, auto) {
      const F32x16 v = load(x + i);
      sums = Fma(v, v, sums);
    });
    Normalize(x, weight, InverseRms(sums, dim, epsilon), dim, out);
  }
}

void AddRmsNormRows(const float* x, const float* weight, float epsilon, int64_t num_rows,
                    int64_t dim, float* residual, float* out) {
  for (int64_t row = 0; row < num_rows; ++row, x += dim, residual += dim, out += dim) {
    F32x16 sums = F32x16::Zero();
    ForEachVector(dim, [&](int64_t i, auto load, auto store) {
      const F32x16 v = load(residual + i) + load(x + i);
      store(residual + i, v);
      sums = Fma(v, v, sums);
    });
    Normalize(residual, weight, InverseRms(sums, dim, epsilon), dim, out);
  }
}

void SwiGluRows(const float* gate_up, int64_t num_rows, int64_t dim, float* out) {
  for (int64_t row = 0; row < num_rows; ++row, gate_up += 2 * dim, out += dim) {
    ForEachVector(dim, [&](int64_t i, auto load, auto store) {
      const F32x16 gate = load(gate_up + i);
      store(out + i, (gate * Sigmoid(gate)) * load(gate_up + dim + i));
    });
  }
}

}  // namespace
}  // namespace tessera
