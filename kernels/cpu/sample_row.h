#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/sample_kernels.h"
#include "kernels/cpu/sample_select.h"

namespace tessera {

// Chooses one row's token in the order of docs/sampling.md, skipping what cannot change the choice:
// selection instead of sorting, and random draws only for tokens that could still win. Owns scratch
// for one thread.
class RowSampler {
 public:
  explicit RowSampler(const SampleKernels* kernels) : kernels_(*kernels), selector_(kernels) {}

  // Scratch for a vocabulary's size; allocates where the size is new.
  void Reserve(size_t vocab_size);

  // REQUIRES: logits.size() was reserved.
  void Run(std::span<const float> logits, const SampleRow& row, SampleResult* result);

 private:
  // A row's scores and their maximum. block_max_ belongs to the scores last made.
  struct Scores {
    std::span<const float> values;
    float max = 0.0f;
  };
  // Which tokens may still be chosen.
  struct Filter {
    Cutoff cutoff;
    uint64_t min_mass = 0;
    float lowest_score = -kMaxScore;  // no kept token is below; only skips work
  };
  struct Best {
    float total = 0.0f;
    TokenId token = -1;
  };
  // Tokens whose noise is to be added, 16 at a time.
  struct PendingDraws {
    int count = 0;
    TokenId tokens[16];
    float scores[16];
    uint32_t words[16];
  };

  std::span<const TokenId> CandidateIds() const { return {ids_.data(), num_candidates_}; }
  std::span<const float> CandidateScores() const {
    return {candidate_scores_.data(), num_candidates_};
  }

  TokenId Choose(std::span<const float> logits, float raw_max, const SampleRow& row);
  Scores MakeScores(std::span<const float> logits, float raw_max, const SampleRow& row);
  TokenId FirstEqual(const Scores& scores, float value) const;

  Filter MakeFilter(const Scores& scores, const SamplingParams& params);
  // Makes the tokens that reach `bound` the candidates, ascending by id.
  void CollectCandidates(const Scores& scores, float bound);
  // A score that at least `count` tokens reach.
  float CountBound(size_t vocab_size, size_t count);
  Cutoff TopK(const Scores& scores, size_t count);
  Cutoff TopP(const Scores& scores, float top_p, bool only_candidates);
  void DropCandidatesBeyond(const Cutoff& cutoff);

  TokenId DrawToken(const Scores& scores, const Filter& filter, uint64_t seed, int64_t position);
  void DrawGroup(const Scores& scores, const Filter& filter, uint64_t seed, uint64_t position,
                 size_t first_block, Best* best);
  void ResolveDraws(const Scores& scores, const Filter& filter, PendingDraws* draws, Best* best);

  void RankLogits(const Scores& raw, size_t count);
  void WriteLogprobs(const Scores& raw, float log_sum, SampleResult* result) const;

  const SampleKernels& kernels_;
  PrefixSelector selector_;
  std::vector<float> scores_;            // [vocab_size]
  std::vector<float> block_max_;         // [blocks, rounded up to 16; -infinity beyond]
  std::vector<float> sorted_block_max_;  // scratch of CountBound
  size_t num_candidates_ = 0;
  std::vector<TokenId> ids_;             // [vocab_size], the first num_candidates_ in use
  std::vector<float> candidate_scores_;  // likewise
  std::vector<uint64_t> masses_;         // likewise
  std::vector<TokenLogprob> ranked_;     // the top raw logits, descending
};

}  // namespace tessera
