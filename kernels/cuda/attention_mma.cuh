#pragma once

#include "kernels/cuda/attention_tile.cuh"

// The two products of attention, on tiles in shared memory that ChunkOffset lays out. Every score
// is one chain of mma over the head dimension, every output one over the keys, both ascending.
//
// Fragments of a warp's 16 rows: lane l holds rows l / 4 and l / 4 + 8 (elements 0, 1 and 2, 3) and
// of each 8 columns 2 (l % 4) and the next.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Scores of a warp's kTiles times 16 rows, from `row` on, with the keys [key, key + 8 *
// kFragments).
template <typename T, int D, int kRows, int kTiles, int kFragments>
__device__ __forceinline__ void ComputeScores(const char* queries, int row, const char* keys,
                                              int key, float (&scores)[kTiles][kFragments][4]) {
  const int lane = FreshThread() % 32;
  const LaneChunk<D, kRows> a_chunk(row + lane % 16, lane / 16);
  const LaneChunk<D, kPageTokens> b_chunk(key + lane % 8 + lane / 16 * 8, lane / 8 % 2);
  TESSERA_UNROLL
  for (int i = 0; i < kTiles * kFragments * 4; ++i) (&scores[0][0][0])[i] = 0.0f;
  TESSERA_UNROLL
  for (int k = 0; k < D / 16; ++k) {
    uint32_t a[kTiles][4];
    TESSERA_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      LoadMatrix4(a[i], queries + a_chunk.Offset(16 * i, 2 * k));
    }
    TESSERA_UNROLL
    for (int j = 0; j < kFragments / 2; ++j) {
      uint32_t b[4];
      LoadMatrix4(b, keys + b_chunk.Offset(16 * j, 2 * k));
      TESSERA_UNROLL
      for (int i = 0; i < kTiles; ++i) {
        Mma16816<T>(scores[i][2 * j], a[i], b[0], b[1]);
        Mma16816<T>(scores[i][2 * j + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// A page's weights of 16 rows as fragments a, rounded to T: half the registers.
template <typename T>
__device__ __forceinline__ void PackWeights(const float (&weights)[8][4], uint32_t (&a)[4][4]) {
  TESSERA_UNROLL
  for (int i = 0; i < 16; ++i) {
    const float* pair = &weights[i / 2][i % 2 * 2];
    a[i / 4][i % 4] = Pack2<T>(pair[0], pair[1]);
  }
}

// out += weights times values, for the pairs of 8 columns first_pair, first_pair + pair_step, ...
// below D / 16, as far as out has room.
template <typename T, int D, int kTiles, int kFragments>
__device__ __forceinline__ void AccumulateValues(const uint32_t (&weights)[kTiles][4][4],
                                                 const char* values, int first_pair, int pair_step,
                                                 float (&out)[kTiles][kFragments][4]) {
  const int lane = FreshThread() % 32;
  const LaneChunk<D, kPageTokens> b_chunk(lane % 16, lane / 16);
  TESSERA_UNROLL
  for (int k = 0; k < kPageTokens / 16; ++k) {
    TESSERA_UNROLL
    for (int j = 0; j < kFragments / 2; ++j) {
      const int pair = first_pair + j * pair_step;
      if (pair >= D / 16) break;
      uint32_t b[4];
      LoadMatrix4Transposed(b, values + b_chunk.Offset(16 * k, 2 * pair));
      TESSERA_UNROLL
      for (int i = 0; i < kTiles; ++i) {
        Mma16816<T>(out[i][2 * j], weights[i][k], b[0], b[1]);
        Mma16816<T>(out[i][2 * j + 1], weights[i][k], b[2], b[3]);
      }
    }
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
