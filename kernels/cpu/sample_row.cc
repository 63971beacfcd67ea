#include "kernels/cpu/sample_row.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/check.h"
#include "kernels/cpu/sample_edits.h"
#include "kernels/cpu/vector_math.h"

namespace tessera {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kGroupBlocks = 16;
constexpr float kNoDraw = 0x1p23f;  // SampleKernels::noise_thresholds

// Where a bound only skips work, it stays this far on the safe side of the rounding of Log and
// Exp2.
constexpr float kBoundSlack = 0.01f;

uint64_t CeilToInteger(double x) {
  const auto floor = static_cast<uint64_t>(x);
  return floor + (static_cast<double>(floor) < x ? 1 : 0);
}

float LogOfMass(double mass) { return Log(static_cast<float>(mass / kMassOfMax)); }

void Fail(SampleStatus status, SampleResult* result) {
  result->status = status;
  result->token = -1;
  result->logprobs = {};
}

}  // namespace

void RowSampler::Run(std::span<const float> logits, const SampleRow& row, SampleResult* result) {
  CHECK_EQ(scores_.size(), logits.size());
  const auto size = static_cast<int64_t>(logits.size());
  const ScanResult scan = kernels_.scan(logits.data(), size, block_max_.data());
  if (!scan.all_finite) return Fail(SampleStatus::kNonFiniteLogits, result);
  const Scores raw{logits, scan.max};
  if (row.wants_logprob) RankLogits(raw, static_cast<size_t>(row.num_logprobs));

  result->token = row.forced >= 0 ? row.forced : Choose(logits, scan.max, row);
  if (result->token < 0) return Fail(SampleStatus::kNoTokenLeft, result);
  result->status = SampleStatus::kOk;
  if (!row.wants_logprob) {
    result->logprobs = {};
    return;
  }
  const uint64_t sum = kernels_.sum_masses(logits.data(), size, scan.max);
  WriteLogprobs(raw, LogOfMass(static_cast<double>(sum)), result);
}

void RowSampler::Reserve(size_t vocab_size) {
  if (scores_.size() == vocab_size) return;
  const auto num_blocks = static_cast<size_t>(NumSampleBlocks(static_cast<int64_t>(vocab_size)));
  const size_t padded_blocks = (num_blocks + kGroupBlocks - 1) / kGroupBlocks * kGroupBlocks;
  scores_.resize(vocab_size);
  block_max_.assign(padded_blocks, -kInfinity);
  sorted_block_max_.resize(num_blocks);
  ids_.resize(vocab_size);
  candidate_scores_.resize(vocab_size);
  masses_.resize(vocab_size);
  ranked_.reserve(vocab_size);
  selector_.Reserve(vocab_size);
}

TokenId RowSampler::Choose(std::span<const float> logits, float raw_max, const SampleRow& row) {
  const Scores scores = MakeScores(logits, raw_max, row);
  if (scores.max == -kInfinity) return -1;
  if (row.params->temperature < kGreedyTemperature) return FirstEqual(scores, scores.max);
  const Filter filter = MakeFilter(scores, *row.params);
  return DrawToken(scores, filter, row.params->seed, row.position);
}

RowSampler::Scores RowSampler::MakeScores(std::span<const float> logits, float raw_max,
                                          const SampleRow& row) {
  const bool greedy = row.params->temperature < kGreedyTemperature;
  const float temperature = greedy ? 1.0f : row.params->temperature;
  const bool edited = HasEdits(row);
  if (!edited && temperature == 1.0f) return {logits, raw_max};
  const float* source = logits.data();
  if (edited) {
    std::memcpy(scores_.data(), logits.data(), logits.size_bytes());
    ApplyEdits(row, scores_);
    source = scores_.data();
  }
  const float max = kernels_.scale(source, static_cast<int64_t>(logits.size()), temperature,
                                   scores_.data(), block_max_.data());
  return {scores_, max};
}

TokenId RowSampler::FirstEqual(const Scores& scores, float value) const {
  const auto block = static_cast<size_t>(std::find(block_max_.begin(), block_max_.end(), value) -
                                         block_max_.begin());
  const auto begin = scores.values.begin() + static_cast<int64_t>(block) * kSampleBlock;
  return static_cast<TokenId>(std::find(begin, scores.values.end(), value) - scores.values.begin());
}

RowSampler::Filter RowSampler::MakeFilter(const Scores& scores, const SamplingParams& params) {
  Filter filter;
  const bool has_top_k =
      params.top_k > 0 && static_cast<size_t>(params.top_k) < scores.values.size();
  if (has_top_k) filter.cutoff = TopK(scores, static_cast<size_t>(params.top_k));
  if (params.top_p < 1.0f) filter.cutoff = TopP(scores, params.top_p, has_top_k);
  filter.lowest_score = filter.cutoff.score;
  if (params.min_p > 0.0f) {
    filter.min_mass = CeilToInteger(double{params.min_p} * kMassOfMax);
    const float bound = scores.max + Log(params.min_p) - kBoundSlack;
    filter.lowest_score = std::max(filter.lowest_score, bound);
  }
  return filter;
}

void RowSampler::CollectCandidates(const Scores& scores, float bound) {
  num_candidates_ = static_cast<size_t>(kernels_.collect(scores.values.data(),
                                                         static_cast<int64_t>(scores.values.size()),
                                                         block_max_.data(), bound, ids_.data()));
  for (size_t i = 0; i < num_candidates_; ++i) {
    candidate_scores_[i] = scores.values[static_cast<size_t>(ids_[i])];
  }
}

float RowSampler::CountBound(size_t vocab_size, size_t count) {
  const auto num_blocks = static_cast<size_t>(NumSampleBlocks(static_cast<int64_t>(vocab_size)));
  if (count > num_blocks) return -kMaxScore;
  // The count-th largest block maximum is reached by at least `count` tokens.
  std::copy_n(block_max_.begin(), num_blocks, sorted_block_max_.begin());
  const auto nth = sorted_block_max_.begin() + static_cast<int64_t>(count - 1);
  std::nth_element(sorted_block_max_.begin(), nth, sorted_block_max_.end(), std::greater<>());
  return std::max(*nth, -kMaxScore);
}

Cutoff RowSampler::TopK(const Scores& scores, size_t count) {
  CollectCandidates(scores, CountBound(scores.values.size(), count));
  if (num_candidates_ < count) return {};  // fewer unmasked tokens than that
  const Cutoff cutoff = selector_.Select({CandidateScores(), CandidateIds(), {}}, count);
  DropCandidatesBeyond(cutoff);
  return cutoff;
}

void RowSampler::DropCandidatesBeyond(const Cutoff& cutoff) {
  size_t num_kept = 0;
  for (size_t i = 0; i < num_candidates_; ++i) {
    if (!cutoff.Keeps(candidate_scores_[i], ids_[i])) continue;
    ids_[num_kept] = ids_[i];
    candidate_scores_[num_kept++] = candidate_scores_[i];
  }
  num_candidates_ = num_kept;
}

Cutoff RowSampler::TopP(const Scores& scores, float top_p, bool only_candidates) {
  const std::span<const float> all = only_candidates ? CandidateScores() : scores.values;
  const auto num_scores = static_cast<int64_t>(all.size());
  const uint64_t sum = kernels_.sum_masses(all.data(), num_scores, scores.max);
  const uint64_t target = CeilToInteger(double{top_p} * static_cast<double>(sum));
  if (!only_candidates) {
    // Tokens of less than this mass cannot make up the rest, sum - target, even all together.
    const double negligible = static_cast<double>(sum - target) / static_cast<double>(num_scores);
    const float bound =
        negligible >= 1 ? scores.max + LogOfMass(negligible) - kBoundSlack : -kMaxScore;
    CollectCandidates(scores, bound);
  }
  kernels_.masses(candidate_scores_.data(), static_cast<int64_t>(num_candidates_), scores.max,
                  masses_.data());
  return selector_.Select({CandidateScores(), CandidateIds(), {masses_.data(), num_candidates_}},
                          target);
}

TokenId RowSampler::DrawToken(const Scores& scores, const Filter& filter, uint64_t seed,
                              int64_t position) {
  // The most likely token's own draw gives a total to beat.
  const TokenId likeliest = FirstEqual(scores, scores.max);
  const auto first_token = static_cast<uint32_t>(likeliest / kSampleBlock * kSampleBlock);
  NoiseBlock block;
  kernels_.draw_block(seed, static_cast<uint64_t>(position), first_token, kNoDraw, &block);
  const auto offset = static_cast<uint32_t>(likeliest) - first_token;
  PendingDraws draws;
  draws.count = 1;
  draws.tokens[0] = likeliest;
  draws.scores[0] = scores.max;
  draws.words[0] = block.words[offset % 4 * 16 + offset / 4];
  Best best;
  ResolveDraws(scores, filter, &draws, &best);

  const auto num_blocks =
      static_cast<size_t>(NumSampleBlocks(static_cast<int64_t>(scores.values.size())));
  for (size_t group = 0; group < num_blocks; group += kGroupBlocks) {
    DrawGroup(scores, filter, seed, static_cast<uint64_t>(position), group, &best);
  }
  return best.token;
}

void RowSampler::DrawGroup(const Scores& scores, const Filter& filter, uint64_t seed,
                           uint64_t position, size_t first_block, Best* best) {
  float thresholds[kGroupBlocks];
  kernels_.noise_thresholds(&block_max_[first_block], best->total, thresholds);
  PendingDraws draws;
  for (size_t i = 0; i < kGroupBlocks; ++i) {
    const bool may_win = thresholds[i] < kNoDraw;  // false for NaN: a block without tokens
    if (!may_win || block_max_[first_block + i] < filter.lowest_score) continue;
    const auto first_token = static_cast<uint32_t>((first_block + i) * kSampleBlock);
    NoiseBlock block;
    uint64_t bits = kernels_.draw_block(seed, position, first_token, thresholds[i], &block);
    for (; bits != 0; bits &= bits - 1) {
      const auto bit = static_cast<uint32_t>(__builtin_ctzll(bits));
      const uint32_t token = first_token + bit % 16 * 4 + bit / 16;
      if (token >= scores.values.size()) continue;
      const float score = scores.values[token];
      if (!filter.cutoff.Keeps(score, static_cast<TokenId>(token))) continue;
      draws.tokens[draws.count] = static_cast<TokenId>(token);
      draws.scores[draws.count] = score;
      draws.words[draws.count] = block.words[bit];
      if (++draws.count == 16) ResolveDraws(scores, filter, &draws, best);
    }
  }
  if (draws.count > 0) ResolveDraws(scores, filter, &draws, best);
}

void RowSampler::ResolveDraws(const Scores& scores, const Filter& filter, PendingDraws* draws,
                              Best* best) {
  std::fill(draws->scores + draws->count, draws->scores + 16, -kInfinity);
  std::fill(draws->words + draws->count, draws->words + 16, 0u);
  float totals[16];
  kernels_.add_noise(draws->scores, draws->words, totals);
  uint64_t masses[16] = {};
  if (filter.min_mass > 0) kernels_.masses(draws->scores, draws->count, scores.max, masses);
  for (int i = 0; i < draws->count; ++i) {
    if (masses[i] < filter.min_mass) continue;
    const bool wins = best->token < 0 || totals[i] > best->total ||
                      (totals[i] == best->total && draws->tokens[i] < best->token);
    if (wins) *best = {totals[i], draws->tokens[i]};
  }
  draws->count = 0;
}

void RowSampler::RankLogits(const Scores& raw, size_t count) {
  ranked_.clear();
  if (count == 0) return;
  TopK(raw, std::min(count, raw.values.size()));
  for (size_t i = 0; i < num_candidates_; ++i) ranked_.push_back({ids_[i], candidate_scores_[i]});
  std::sort(ranked_.begin(), ranked_.end(), [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
  });
}

void RowSampler::WriteLogprobs(const Scores& raw, float log_sum, SampleResult* result) const {
  CHECK_GT(result->logprobs.size(), ranked_.size());
  const auto logprob = [&](float logit) { return (logit - raw.max) - log_sum; };
  size_t count = 0;
  bool has_chosen = false;
  for (const TokenLogprob& entry : ranked_) {
    has_chosen |= entry.token == result->token;
    result->logprobs[count++] = {entry.token, logprob(entry.logprob)};
  }
  if (!has_chosen) {
    const float logit = raw.values[static_cast<size_t>(result->token)];
    result->logprobs[count++] = {result->token, logprob(logit)};
  }
  result->logprobs = result->logprobs.first(count);
}

}  // namespace tessera
