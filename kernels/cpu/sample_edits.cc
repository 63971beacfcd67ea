#include "kernels/cpu/sample_edits.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "kernels/sampling.h"

namespace tessera {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

float& At(std::span<float> scores, TokenId token) {
  CHECK(token >= 0 && static_cast<size_t>(token) < scores.size())
      << "token " << token << " of a vocabulary of " << scores.size();
  return scores[static_cast<size_t>(token)];
}

float Penalize(float score, const SamplingParams& params, int32_t output_count) {
  if (score == kMasked) return score;
  const float penalty = params.repetition_penalty;
  score = score > 0.0f ? score / penalty : score * penalty;
  score -= params.frequency_penalty * static_cast<float>(output_count);
  if (output_count > 0) score -= params.presence_penalty;
  return std::clamp(score, -kMaxScore, kMaxScore);
}

}  // namespace

bool HasEdits(const SampleRow& row) {
  return !row.banned.empty() || !row.seen.empty() || !row.params->logit_bias.empty();
}

void ApplyEdits(const SampleRow& row, std::span<float> scores) {
  for (const TokenId token : row.banned) At(scores, token) = kMasked;
  for (const auto& [token, bias] : row.params->logit_bias) {
    float& score = At(scores, token);
    score += bias;
  }
  for (const TokenCount& seen : row.seen) {
    float& score = At(scores, seen.token);
    score = Penalize(score, *row.params, seen.output_count);
  }
}

}  // namespace tessera
