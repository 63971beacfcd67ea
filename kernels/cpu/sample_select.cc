#include "kernels/cpu/sample_select.h"

#include "base/check.h"

namespace tessera {

Cutoff PrefixSelector::Select(Candidates candidates, uint64_t target) {
  uint64_t remaining = target;
  while (true) {
    const auto count = static_cast<int64_t>(candidates.scores.size());
    const ScoreRange range = kernels_.range(candidates.scores.data(), count);
    if (range.min == range.max) break;
    // The worst score falls into the last bucket, so each round leaves at least one candidate out.
    const double width = double{range.max} - double{range.min};
    const BucketMap map{range.max, (kNumBuckets - 0.5) / width};
    const size_t bucket = FindBucket(candidates, map, &remaining);
    candidates = KeepBucket(candidates, map, bucket);
  }
  for (size_t i = 0; i < candidates.scores.size(); ++i) {
    if (candidates.Mass(i) >= remaining) return {candidates.scores[i], candidates.token_ids[i]};
    remaining -= candidates.Mass(i);
  }
  CHECK(false) << "target " << target << " exceeds the candidates' mass";
  return {};
}

size_t PrefixSelector::FindBucket(const Candidates& candidates, const BucketMap& map,
                                  uint64_t* remaining) {
  bucket_masses_.fill(0);
  for (size_t i = 0; i < candidates.scores.size(); ++i) {
    bucket_masses_[map(candidates.scores[i])] += candidates.Mass(i);
  }
  size_t bucket = 0;
  for (; bucket < kNumBuckets - 1 && bucket_masses_[bucket] < *remaining; ++bucket) {
    *remaining -= bucket_masses_[bucket];
  }
  return bucket;
}

void PrefixSelector::Reserve(size_t max_candidates) {
  scores_.resize(max_candidates);
  token_ids_.resize(max_candidates);
  masses_.resize(max_candidates);
}

Candidates PrefixSelector::KeepBucket(const Candidates& candidates, const BucketMap& map,
                                      size_t bucket) {
  size_t count = 0;
  for (size_t i = 0; i < candidates.scores.size(); ++i) {
    const uint64_t mass = candidates.Mass(i);
    if (map(candidates.scores[i]) != bucket) continue;
    scores_[count] = candidates.scores[i];
    token_ids_[count] = candidates.token_ids[i];
    masses_[count++] = mass;
  }
  return {{scores_.data(), count}, {token_ids_.data(), count}, {masses_.data(), count}};
}

}  // namespace tessera
