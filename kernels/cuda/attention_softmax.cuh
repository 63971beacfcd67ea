#pragma once

#include "kernels/cuda/attention_tile.cuh"

// The running softmax of rows in fragments (attention_mma.cuh), and how two parts of a row merge.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Rows l / 4 and l / 4 + 8 of 16 over the keys of one split so far. A lane's sum is of its own
// columns until FinishSums. A row that has seen no key has the sum 0.
struct SoftmaxRows {
  float max[2] = {kMinusInfinity, kMinusInfinity};
  float sum[2] = {0.0f, 0.0f};
};

// tanh, with an absolute error below 2^-21: through exp2, since tanh.approx errs by 2^-11.
__device__ __forceinline__ float TanhByExp2(float x) {
  constexpr float kTwoLog2E = 2.885390082f;
  const float power = Exp2Approx(MulRn(x, kTwoLog2E));
  return FmaRn(-2.0f, RcpApprox(AddRn(power, 1.0f)), 1.0f);
}

template <int kFragments>
__device__ __forceinline__ void CapScores(float softcap_scale, float (&scores)[kFragments][4]) {
  TESSERA_UNROLL
  for (int j = 0; j < kFragments; ++j) {
    TESSERA_UNROLL
    for (int e = 0; e < 4; ++e) scores[j][e] = TanhByExp2(MulRn(scores[j][e], softcap_scale));
  }
}

// Hides from rows `row` and row + 8 of the item the keys that they do not see; first_key is the key
// of the lane's first column.
template <int kFragments>
__device__ __forceinline__ void MaskScores(const AttentionKernelParams& params,
                                           const BlockItem& item, int row, int first_key,
                                           float (&scores)[kFragments][4]) {
  TESSERA_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int position = item.positions[row + 8 * i] - first_key;
    const int begin = position - params.window + 1;
    const int end = min(item.rows.sequence.kv_length - first_key, position + params.look_ahead);
    TESSERA_UNROLL
    for (int j = 0; j < kFragments; ++j) {
      TESSERA_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int key = 8 * j + e;
        if (key < begin || key >= end) scores[j][2 * i + e] = kMinusInfinity;
      }
    }
  }
}

// The same value in the four lanes of a row.
__device__ __forceinline__ float RowMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, 2));
}

__device__ __forceinline__ float RowSum(float value) {
  value = AddRn(value, __shfl_xor_sync(0xFFFFFFFFu, value, 1));
  return AddRn(value, __shfl_xor_sync(0xFFFFFFFFu, value, 2));
}

// Takes in the scores of one page, which become weights; correction is by what the row's outputs so
// far are to be multiplied: exactly 1 where the maximum stays, so that a page without a visible key
// changes nothing.
__device__ __forceinline__ void UpdateSoftmax(float scale_log2, float (&scores)[8][4],
                                              SoftmaxRows& rows, float (&correction)[2]) {
  TESSERA_UNROLL
  for (int i = 0; i < 2; ++i) {
    float max = rows.max[i];
    TESSERA_UNROLL
    for (int j = 0; j < 8; ++j) max = fmaxf(max, fmaxf(scores[j][2 * i], scores[j][2 * i + 1]));
    max = RowMax(max);
    // Before its first key a row's maximum is -infinity, and infinity - infinity is NaN.
    const float base = max == kMinusInfinity ? 0.0f : MulRn(max, scale_log2);
    correction[i] = Exp2Approx(MulRn(rows.max[i], scale_log2) - base);
    rows.max[i] = max;
    float sum = MulRn(rows.sum[i], correction[i]);
    TESSERA_UNROLL
    for (int j = 0; j < 8; ++j) {
      TESSERA_UNROLL
      for (int e = 2 * i; e < 2 * i + 2; ++e) {
        scores[j][e] = Exp2Approx(FmaRn(scores[j][e], scale_log2, -base));
        sum = AddRn(sum, scores[j][e]);
      }
    }
    rows.sum[i] = sum;
  }
}

// Ends a split: sums over whole rows, maxima in the exp2 domain.
__device__ __forceinline__ void FinishSums(float scale_log2, SoftmaxRows& rows) {
  TESSERA_UNROLL
  for (int i = 0; i < 2; ++i) {
    rows.sum[i] = RowSum(rows.sum[i]);
    rows.max[i] = MulRn(rows.max[i], scale_log2);
  }
}

// Multiplies what lane rows have accumulated.
template <int kFragments>
__device__ __forceinline__ void ScaleRows(const float (&factor)[2], float (&out)[kFragments][4]) {
  TESSERA_UNROLL
  for (int j = 0; j < kFragments; ++j) {
    TESSERA_UNROLL
    for (int e = 0; e < 4; ++e) out[j][e] = MulRn(out[j][e], factor[e / 2]);
  }
}

// How a part of a row enters the total of the parts before it. An empty part, whose maximum is
// -infinity, leaves the total as it is, bit for bit: exp2(0) is 1. An empty total takes the part.
struct RowMerge {
  float max;
  float total_factor;
  float part_factor;

  __device__ __forceinline__ RowMerge(float total_max, float total_sum, float part_max,
                                      float part_sum)
      : max(fmaxf(total_max, part_max)),
        total_factor(total_sum == 0.0f ? 0.0f : Exp2Approx(total_max - max)),
        part_factor(part_sum == 0.0f ? 0.0f : Exp2Approx(part_max - max)) {}

  // Of sums and of outputs.
  __device__ __forceinline__ float operator()(float total, float part) const {
    return FmaRn(part, part_factor, MulRn(total, total_factor));
  }
};

// What a row's outputs are multiplied by at the end: 0 for a row without a visible key.
__device__ __forceinline__ float Normaliser(float sum) {
  return sum == 0.0f ? 0.0f : DivRn(1.0f, sum);
}

// Adding zero turns -0 into 0: whether an underflow's -0 has met a page of weights 0 depends on the
// row's neighbours.
__device__ __forceinline__ float Normalise(float out, float normaliser) {
  return AddRn(MulRn(out, normaliser), 0.0f);
}

// Natural logarithm of the sum of exp(score).
__device__ __forceinline__ float LogSumExp(float max, float sum) {
  constexpr float kLn2 = 0.6931471806f;
  return sum == 0.0f ? kMinusInfinity : MulRn(AddRn(max, Log2Approx(sum)), kLn2);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
