#pragma once

#include "kernels/cuda/sample_block.cuh"

// From logits to scores: masks, bias, penalties, temperature.

namespace tessera::TESSERA_CUDA_NAMESPACE {

__device__ __forceinline__ float Saturate(float score) {
  return fminf(fmaxf(score, -kMaxScore), kMaxScore);
}

// The largest logit's key, or kNonFiniteKey where one is infinite or NaN.
__device__ __forceinline__ uint32_t ScanLogits(const float* logits, int size) {
  uint32_t best = 0;
  ForEachIndex(size, [&](int i) {
    const float logit = logits[i];
    const bool is_finite = (__float_as_uint(logit) & 0x7F800000u) != 0x7F800000u;
    best = max(best, is_finite ? OrderedKey(logit) : kNonFiniteKey);
  });
  return BlockMax(best);
}

__device__ __forceinline__ float Penalize(float score, const DeviceSampleRow& row,
                                          int32_t output_count) {
  if (score == -kInfinity) return score;
  const float penalty = row.repetition_penalty;
  score = score > 0.0f ? DivRn(score, penalty) : MulRn(score, penalty);
  score = score - MulRn(row.frequency_penalty, static_cast<float>(output_count));
  if (output_count > 0) score = score - row.presence_penalty;
  return Saturate(score);
}

// The thread that has the first of a token's biases adds them all, in order.
__device__ __forceinline__ void AddBiases(const DeviceSampleRow& row, float* scores) {
  const TokenBias* biases = row.biases;
  ForEachIndex(row.num_biases, [&](int first) {
    const TokenId token = biases[first].token;
    if (first > 0 && biases[first - 1].token == token) return;
    float score = scores[token];
    for (int i = first; i < row.num_biases && biases[i].token == token; ++i) {
      score = score + biases[i].bias;
    }
    scores[token] = score;
  });
}

__device__ __forceinline__ void ApplyEdits(const DeviceSampleRow& row, float* scores) {
  __syncthreads();  // the scores are copied
  ForEachIndex(row.num_banned, [&](int i) { scores[row.banned[i]] = -kInfinity; });
  __syncthreads();
  AddBiases(row, scores);
  if (row.seen == nullptr) return;
  __syncthreads();
  ForEachIndex(*row.num_seen, [&](int i) {
    const TokenCount seen = row.seen[i];
    scores[seen.token] = Penalize(scores[seen.token], row, seen.output_count);
  });
}

// out = in / temperature, where in may be out. Returns the maximum's key.
__device__ __forceinline__ uint32_t ScaleScores(const float* in, int size, float temperature,
                                                float* out) {
  uint32_t best = 0;
  ForEachIndex(size, [&](int i) {
    const float score = in[i];
    const float scaled = score == -kInfinity ? score : Saturate(DivRn(score, temperature));
    out[i] = scaled;
    best = max(best, OrderedKey(scaled));
  });
  return BlockMax(best);
}

// The row's scores, in `room` unless they are the logits themselves.
__device__ __forceinline__ Scores MakeScores(const float* logits, int size, float raw_max,
                                             const DeviceSampleRow& row, float* room) {
  const bool greedy = row.temperature < kGreedyTemperature;
  const float temperature = greedy ? 1.0f : row.temperature;
  const bool edited = row.num_banned > 0 || row.num_biases > 0 || row.seen != nullptr;
  if (!edited && temperature == 1.0f) return {logits, size, raw_max};
  const float* source = logits;
  if (edited) {
    ForEachIndex(size, [&](int i) { room[i] = logits[i]; });
    ApplyEdits(row, room);
    __syncthreads();
    source = room;
  }
  const uint32_t best = ScaleScores(source, size, temperature, room);
  return {room, size, FromOrderedKey(best)};
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
