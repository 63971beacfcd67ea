#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/sampling_params.h"
#include "kernels/cpu/sample_kernels.h"
#include "kernels/sampling.h"

namespace tessera {

// A prefix of the order (score descending, id ascending), named by its last element.
struct Cutoff {
  float score = -kMaxScore;
  TokenId token = std::numeric_limits<TokenId>::max();

  bool Keeps(float other_score, TokenId other) const {
    return other_score > score || (other_score == score && other <= token);
  }
};

// Tokens to select from, ascending by id; finite scores.
struct Candidates {
  std::span<const float> scores;
  std::span<const TokenId> token_ids;
  std::span<const uint64_t> masses;  // empty: each counts 1

  uint64_t Mass(size_t i) const { return masses.empty() ? 1 : masses[i]; }
};

// Finds prefixes of the order (score descending, id ascending) without sorting: it spreads the
// candidates over buckets of score, keeps the bucket in which the prefix ends, and repeats there.
// Owns scratch only; one thread at a time.
class PrefixSelector {
 public:
  explicit PrefixSelector(const SampleKernels* kernels) : kernels_(*kernels) {}

  // Scratch for so many candidates.
  void Reserve(size_t max_candidates);

  // The shortest prefix whose masses add up to at least `target`. REQUIRES: 1 <= target <= the sum
  // of the masses; no more candidates than reserved.
  Cutoff Select(Candidates candidates, uint64_t target);

 private:
  static constexpr int kNumBuckets = 2048;
  // Maps a range of scores onto the buckets, the best to bucket 0, never against the order.
  struct BucketMap {
    double best;
    double buckets_per_score;
    size_t operator()(float score) const {
      return static_cast<size_t>((best - double{score}) * buckets_per_score);
    }
  };

  // Takes what precedes the prefix's last bucket off `remaining`.
  size_t FindBucket(const Candidates& candidates, const BucketMap& map, uint64_t* remaining);
  // The candidates of one bucket, in own memory. They may be there already.
  Candidates KeepBucket(const Candidates& candidates, const BucketMap& map, size_t bucket);

  const SampleKernels& kernels_;
  std::array<uint64_t, kNumBuckets> bucket_masses_{};
  std::vector<float> scores_;
  std::vector<TokenId> token_ids_;
  std::vector<uint64_t> masses_;
};

}  // namespace tessera
