#pragma once

#include "kernels/cuda/sample_scores.cuh"
#include "kernels/cuda/sample_select.cuh"

// From scores to a token: top_k, top_p, min_p, noise.

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Where a bound only skips work, it stays this far on the safe side of the rounding of Log and
// Exp2.
inline constexpr float kBoundSlack = 0.01f;
inline constexpr float kMaxNoise = 16.7f;  // no draw is above 16.64

__device__ __forceinline__ Cutoff TopK(const Scores& scores, int top_k, SelectScratch& scratch) {
  return SelectPrefix({scores, NoCutoff(), -kMaxScore, false}, static_cast<uint64_t>(top_k),
                      scratch);
}

__device__ __forceinline__ Cutoff TopP(const Scores& scores, float top_p, const Cutoff& prior,
                                       SelectScratch& scratch) {
  const uint64_t sum = SumMasses(scores, prior);
  const uint64_t target = CeilToInteger(double{top_p} * static_cast<double>(sum));
  // Tokens of less than this mass cannot make up the rest, sum - target, even all together.
  const double negligible = static_cast<double>(sum - target) / static_cast<double>(scores.size);
  const float worst =
      negligible >= 1 ? scores.max + LogOfMass(negligible) - kBoundSlack : -kMaxScore;
  return SelectPrefix({scores, prior, worst, true}, target, scratch);
}

__device__ __forceinline__ float NoiseOfToken(const DeviceSampleRow& row, TokenId token) {
  const PhiloxWords draw =
      DrawWords(row.seed, static_cast<uint64_t>(row.position), static_cast<uint32_t>(token) / 4);
  return NoiseOf(draw.word[token % 4]);
}

// The draws of one quad of tokens. Returns the best (total, lowest id) as one key, at least `best`.
__device__ __forceinline__ uint64_t DrawQuad(const Scores& scores, const DeviceSampleRow& row,
                                             const Cutoff& cutoff, uint64_t min_mass, int quad,
                                             uint64_t best) {
  const float to_beat = FromOrderedKey(static_cast<uint32_t>(best >> 32));
  float candidates[4];  // -infinity: cannot win
  bool may_win = false;
  TESSERA_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int id = 4 * quad + j;
    const float score = id < scores.size ? scores.values[id] : -kInfinity;
    const bool kept = score + kMaxNoise >= to_beat && cutoff.Keeps(score, id);
    candidates[j] = kept ? score : -kInfinity;
    may_win |= kept;
  }
  if (!may_win) return best;
  const PhiloxWords draw =
      DrawWords(row.seed, static_cast<uint64_t>(row.position), static_cast<uint32_t>(quad));
  TESSERA_UNROLL
  for (int j = 0; j < 4; ++j) {
    const float score = candidates[j];
    if (score == -kInfinity || (min_mass > 0 && MassOf(score, scores.max) < min_mass)) continue;
    const uint64_t total = OrderedKey(score + NoiseOf(draw.word[j]));
    const uint64_t key = total << 32 | ~static_cast<uint32_t>(4 * quad + j);
    best = best > key ? best : key;
  }
  return best;
}

__device__ __forceinline__ TokenId DrawToken(const Scores& scores, const DeviceSampleRow& row,
                                             const Cutoff& cutoff, uint64_t min_mass) {
  // The most likely token's own draw gives a total to beat.
  const TokenId likeliest = FirstEqual(scores, scores.max);
  const uint64_t total = OrderedKey(scores.max + NoiseOfToken(row, likeliest));
  uint64_t best = total << 32 | ~static_cast<uint32_t>(likeliest);
  ForEachIndex((scores.size + 3) / 4,
               [&](int quad) { best = DrawQuad(scores, row, cutoff, min_mass, quad, best); });
  return static_cast<TokenId>(~static_cast<uint32_t>(BlockMax64(best)));
}

// -1 where no token is left.
__device__ __forceinline__ TokenId ChooseToken(const Scores& scores, const DeviceSampleRow& row,
                                               SelectScratch& scratch) {
  if (scores.max == -kInfinity) return -1;
  if (row.temperature < kGreedyTemperature) return FirstEqual(scores, scores.max);
  Cutoff cutoff = NoCutoff();
  if (row.top_k > 0 && row.top_k < scores.size) cutoff = TopK(scores, row.top_k, scratch);
  if (row.top_p < 1.0f) cutoff = TopP(scores, row.top_p, cutoff, scratch);
  const uint64_t min_mass = row.min_p > 0.0f ? CeilToInteger(double{row.min_p} * kMassOfMax) : 0;
  return DrawToken(scores, row, cutoff, min_mass);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
