#pragma once

#include "kernels/cuda/attention_epilogue.cuh"
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/attention_tile.cuh"

// How a block's four warps share an item, wide or narrow. Both see every score and every output
// come about by the same operations in the same order, and so give a row the same bits.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// What a warp has of its rows: of kTiles times 16 rows, kFragments times 8 columns.
template <int kTiles, int kFragments>
struct Accumulators {
  SoftmaxRows softmax[kTiles];
  float out[kTiles][kFragments][4];

  __device__ __forceinline__ void Reset() {
    TESSERA_UNROLL
    for (int i = 0; i < kTiles; ++i) softmax[i] = {};
    TESSERA_UNROLL
    for (int i = 0; i < kTiles * kFragments * 4; ++i) (&out[0][0][0])[i] = 0.0f;
  }

  // Of one page; the scores become weights.
  __device__ __forceinline__ void Update(float scale_log2, float (&scores)[kTiles][8][4]) {
    TESSERA_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      float correction[2];
      UpdateSoftmax(scale_log2, scores[i], softmax[i], correction);
      ScaleRows(correction, out[i]);
    }
  }

  __device__ __forceinline__ void FinishSplit(float scale_log2) {
    TESSERA_UNROLL
    for (int i = 0; i < kTiles; ++i) FinishSums(scale_log2, softmax[i]);
  }
};

// Caps and masks the scores of rows [row, row + 16 kTiles) with a page's keys from first_key on,
// where the launch and the page ask for it.
template <int kTiles, int kFragments>
__device__ __forceinline__ void FinishScores(const AttentionKernelParams& params,
                                             const BlockItem& item, int page, int row,
                                             int first_key,
                                             float (&scores)[kTiles][kFragments][4]) {
  if (params.softcap_scale != 0.0f) {
    TESSERA_UNROLL
    for (int i = 0; i < kTiles; ++i) CapScores(params.softcap_scale, scores[i]);
  }
  if (!item.pages.NeedsMask(page)) return;
  const int lane = FreshThread() % 32;
  TESSERA_UNROLL
  for (int i = 0; i < kTiles; ++i) {
    MaskScores(params, item, row + 16 * i + lane / 4, page * kPageTokens + first_key + lane % 4 * 2,
               scores[i]);
  }
}

// Warps divide the rows: each has 16 kWarpTiles of them, all keys and all columns.
template <typename T, int D, int kWarpTiles>
struct WideRole {
  using Element = T;
  static constexpr int kHeadDim = D;
  static constexpr int kTiles = kWarpTiles;
  static constexpr int kFragments = D / 8;
  static constexpr int kRows = 16 * kTiles * kAttentionWarps;
  static constexpr int kStages = AttentionTile<D>::kStages;
  static constexpr int kRingOffset = AttentionTile<D>::kQueryBytes;
  static constexpr int kFirstPair = 0;
  static constexpr int kPairStep = 1;

  __device__ static __forceinline__ int first_pair() { return 0; }
  __device__ static __forceinline__ int WarpRow(int tile) {
    return (FreshThread() / 32 * kTiles + tile) * 16;
  }

  __device__ static __forceinline__ void Scores(const AttentionKernelParams& params,
                                                const BlockItem& item, int page, char* shared,
                                                const char* keys, float (&scores)[kTiles][8][4]) {
    ComputeScores<T, D, kRows>(shared, WarpRow(0), keys, 0, scores);
    FinishScores(params, item, page, WarpRow(0), 0, scores);
  }

  __device__ static __forceinline__ void Store(
      const AttentionKernelParams& params, const AttentionRows& rows, char* shared,
      const Accumulators<kTiles, kFragments>& accumulators) {
    TESSERA_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      StoreOutputTile<T, D, kRows>(params, rows, WarpRow(i), shared, accumulators.softmax[i],
                                   accumulators.out[i]);
    }
  }
};

// All warps have the same 16 rows, so that the bytes of their keys arrive for four. Each computes
// the scores of 16 of a page's 64 keys and passes them to the others through shared memory; then
// each has the whole softmax, and a quarter of the columns.
template <typename T, int D>
struct NarrowRole {
  using Element = T;
  static constexpr int kHeadDim = D;
  static constexpr int kTiles = 1;
  static constexpr int kFragments = (D / 16 + kAttentionWarps - 1) / kAttentionWarps * 2;
  static constexpr int kRows = kNarrowRows;
  static constexpr int kStages = AttentionTile<D>::kNarrowStages;
  static constexpr int kRingOffset = AttentionTile<D>::kNarrowRingOffset;
  static constexpr int kPairStep = kAttentionWarps;

  __device__ static __forceinline__ int first_pair() { return FreshThread() / 32; }
  __device__ static __forceinline__ int WarpRow(int /*tile*/) { return 0; }

  __device__ static __forceinline__ void Scores(const AttentionKernelParams& params,
                                                const BlockItem& item, int page, char* shared,
                                                const char* keys, float (&scores)[1][8][4]) {
    const int first_key = FreshThread() / 32 * 16;
    float part[1][2][4];
    ComputeScores<T, D, kRows>(shared, 0, keys, first_key, part);
    FinishScores(params, item, page, 0, first_key, part);
    auto* all = reinterpret_cast<float*>(shared + AttentionTile<D>::kScoreOffset);
    Exchange(part[0], all + FragmentOffset() + first_key, all + FragmentOffset(), scores[0]);
  }

  __device__ static __forceinline__ void Store(
      const AttentionKernelParams& params, const AttentionRows& rows, char* /*shared*/,
      const Accumulators<kTiles, kFragments>& accumulators) {
    StoreOutput<T, D>(params, rows, FreshThread() % 32 / 4, first_pair(), kPairStep,
                      accumulators.softmax[0], accumulators.out[0]);
  }

 private:
  static constexpr int kPitch = AttentionTile<D>::kScorePitch;

  // Of a lane's first element of a fragment, in floats.
  __device__ static __forceinline__ int FragmentOffset() {
    const int lane = FreshThread() % 32;
    return lane / 4 * kPitch + lane % 4 * 2;
  }

  // The scores are read before the ring's next step, and written again only after it.
  __device__ static __forceinline__ void Exchange(const float (&part)[2][4], float* own,
                                                  const float* all, float (&scores)[8][4]) {
    TESSERA_UNROLL
    for (int j = 0; j < 2; ++j) {
      *reinterpret_cast<float2*>(own + 8 * j) = {part[j][0], part[j][1]};
      *reinterpret_cast<float2*>(own + 8 * j + 8 * kPitch) = {part[j][2], part[j][3]};
    }
    __syncthreads();
    TESSERA_UNROLL
    for (int j = 0; j < 8; ++j) {
      const float2 low = *reinterpret_cast<const float2*>(all + 8 * j);
      const float2 high = *reinterpret_cast<const float2*>(all + 8 * j + 8 * kPitch);
      scores[j][0] = low.x;
      scores[j][1] = low.y;
      scores[j][2] = high.x;
      scores[j][3] = high.y;
    }
  }
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
