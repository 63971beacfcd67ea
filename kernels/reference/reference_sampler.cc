#include "kernels/reference/reference_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/philox.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/sampling.h"

namespace tessera {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

struct Candidate {
  TokenId token = 0;
  float score = 0.0f;
  uint64_t mass = 0;
};

float Saturate(float score) { return std::clamp(score, -kMaxScore, kMaxScore); }

bool AllFinite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

uint64_t MassOf(float score, float max) {
  return static_cast<uint64_t>(double{Exp2((score - max) * kLog2E)} * kMassOfMax);
}

float NoiseOf(uint64_t seed, int64_t position, TokenId token) {
  const auto low = static_cast<uint32_t>(position);
  const auto high = static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32);
  const auto words = Philox(seed, {low, high, static_cast<uint32_t>(token) / 4,
                                   static_cast<uint32_t>(PhiloxPurpose::kSample)});
  const uint32_t word = words[static_cast<size_t>(token % 4)];
  const float uniform = (static_cast<float>(word >> kWordShift) + 0.5f) * kUniformScale;
  return -Log(-Log(uniform));
}

// The scores before the temperature.
std::vector<float> EditedScores(std::span<const float> logits, const SampleRow& row) {
  std::vector<float> scores(logits.begin(), logits.end());
  for (const TokenId token : row.banned) scores[static_cast<size_t>(token)] = kMasked;
  for (const auto& [token, bias] : row.params->logit_bias) {
    scores[static_cast<size_t>(token)] += bias;
  }
  const SamplingParams& params = *row.params;
  for (const TokenCount& seen : row.seen) {
    float& score = scores[static_cast<size_t>(seen.token)];
    if (score == kMasked) continue;
    score = score > 0 ? score / params.repetition_penalty : score * params.repetition_penalty;
    score -= params.frequency_penalty * static_cast<float>(seen.output_count);
    score -= seen.output_count > 0 ? params.presence_penalty : 0.0f;
    score = Saturate(score);
  }
  return scores;
}

// The unmasked tokens, best first.
std::vector<Candidate> SortedCandidates(const std::vector<float>& scores) {
  std::vector<Candidate> candidates;
  for (size_t token = 0; token < scores.size(); ++token) {
    if (scores[token] == kMasked) continue;
    candidates.push_back({static_cast<TokenId>(token), scores[token], 0});
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  return candidates;
}

size_t TopPCount(const std::vector<Candidate>& candidates, float top_p) {
  uint64_t sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.mass;
  const double target = std::ceil(double{top_p} * static_cast<double>(sum));
  uint64_t prefix = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    prefix += candidates[i].mass;
    if (static_cast<double>(prefix) >= target) return i + 1;
  }
  return candidates.size();
}

// top_k, top_p and min_p.
void Filter(const SamplingParams& params, std::vector<Candidate>* candidates) {
  if (params.top_k > 0 && candidates->size() > static_cast<size_t>(params.top_k)) {
    candidates->resize(static_cast<size_t>(params.top_k));
  }
  const float max = candidates->front().score;
  for (Candidate& candidate : *candidates) candidate.mass = MassOf(candidate.score, max);
  if (params.top_p < 1) candidates->resize(TopPCount(*candidates, params.top_p));
  if (params.min_p == 0) return;
  std::erase_if(*candidates, [&](const Candidate& candidate) {
    return static_cast<double>(candidate.mass) < double{params.min_p} * kMassOfMax;
  });
}

TokenId Choose(std::span<const float> logits, const SampleRow& row) {
  std::vector<float> scores = EditedScores(logits, row);
  const bool greedy = row.params->temperature < kGreedyTemperature;
  for (float& score : scores) {
    if (!greedy && score != kMasked) score = Saturate(score / row.params->temperature);
  }
  std::vector<Candidate> candidates = SortedCandidates(scores);
  if (candidates.empty()) return -1;
  if (greedy) return candidates.front().token;
  Filter(*row.params, &candidates);
  Candidate best;
  best.token = -1;
  for (const Candidate& candidate : candidates) {
    const float total = candidate.score + NoiseOf(row.params->seed, row.position, candidate.token);
    const bool wins = best.token < 0 || total > best.score ||
                      (total == best.score && candidate.token < best.token);
    if (wins) best = {candidate.token, total, 0};
  }
  return best.token;
}

void WriteLogprobs(std::span<const float> logits, const SampleRow& row, SampleResult* result) {
  const std::vector<Candidate> ranked = SortedCandidates({logits.begin(), logits.end()});
  const float max = ranked.front().score;
  uint64_t sum = 0;
  for (const float logit : logits) sum += MassOf(logit, max);
  const float log_sum = Log(static_cast<float>(static_cast<double>(sum) / kMassOfMax));
  size_t count = 0;
  bool has_chosen = false;
  for (size_t i = 0; i < ranked.size() && i < static_cast<size_t>(row.num_logprobs); ++i) {
    has_chosen |= ranked[i].token == result->token;
    result->logprobs[count++] = {ranked[i].token, (ranked[i].score - max) - log_sum};
  }
  if (!has_chosen) {
    const float logit = logits[static_cast<size_t>(result->token)];
    result->logprobs[count++] = {result->token, (logit - max) - log_sum};
  }
  result->logprobs = result->logprobs.first(count);
}

}  // namespace

void ReferenceSample(std::span<const float> logits, const SampleRow& row, SampleResult* result) {
  result->token = -1;
  if (!AllFinite(logits)) {
    result->status = SampleStatus::kNonFiniteLogits;
  } else {
    result->token = row.forced >= 0 ? row.forced : Choose(logits, row);
    result->status = result->token < 0 ? SampleStatus::kNoTokenLeft : SampleStatus::kOk;
  }
  if (result->status == SampleStatus::kOk && row.wants_logprob) {
    WriteLogprobs(logits, row, result);
  } else {
    result->logprobs = {};
  }
}

}  // namespace tessera
