#pragma once

#include <cstdint>

namespace tessera {

inline constexpr int64_t kSampleBlock = 64;  // tokens that share one entry of block_max

inline constexpr int64_t NumSampleBlocks(int64_t num_tokens) {
  return (num_tokens + kSampleBlock - 1) / kSampleBlock;
}

struct ScanResult {
  float max = 0.0f;
  bool all_finite = false;
};

struct ScoreRange {
  float min = 0.0f;
  float max = 0.0f;
};

// The words of one block's draws: token first + 4 * lane + j has words[16 * j + lane].
struct NoiseBlock {
  uint32_t words[kSampleBlock];
};

// The inner loops of sampling for one instruction set. docs/sampling.md defines mass and noise.
struct SampleKernels {
  // Writes each block's maximum.
  ScanResult (*scan)(const float* scores, int64_t num_tokens, float* block_max);
  // out = scores / temperature, saturated; -infinity (masked) stays. out may be scores. Returns the
  // maximum.
  float (*scale)(const float* scores, int64_t num_tokens, float temperature, float* out,
                 float* block_max);
  // REQUIRES: num_scores > 0.
  ScoreRange (*range)(const float* scores, int64_t num_scores);
  uint64_t (*sum_masses)(const float* scores, int64_t num_tokens, float max);
  void (*masses)(const float* scores, int64_t num_scores, float max, uint64_t* out);
  // Writes the ids of tokens whose score is at least `bound`, ascending; returns how many. Whole
  // blocks are skipped by block_max.
  int64_t (*collect)(const float* scores, int64_t num_tokens, const float* block_max, float bound,
                     int32_t* ids);
  // For 16 blocks: draws whose (word >> 9) is below thresholds[i] cannot lift any score of block i
  // to `best`. 2^23 or NaN: no draw can.
  void (*noise_thresholds)(const float* block_max, float best, float* thresholds);
  // Draws the noise words of tokens first_token .. first_token + 63; first_token is a multiple of
  // 64. Returns bit i set where words[i] >> 9 is at least `threshold`.
  uint64_t (*draw_block)(uint64_t seed, uint64_t position, uint32_t first_token, float threshold,
                         NoiseBlock* block);
  // totals = scores + Gumbel noise of the words, 16 of each.
  void (*add_noise)(const float* scores, const uint32_t* words, float* totals);
};

extern const SampleKernels kSampleKernelsPortable;
extern const SampleKernels kSampleKernelsAvx2;
extern const SampleKernels kSampleKernelsAvx512;

}  // namespace tessera
