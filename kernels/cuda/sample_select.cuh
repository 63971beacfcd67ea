#pragma once

#include "kernels/cuda/sample_block.cuh"

// Finds prefixes of the order (score descending, id ascending) without sorting: spreads the
// candidates over buckets of score, keeps the bucket in which the prefix ends, and repeats there,
// until so few are left that each can be compared with all others. Candidates of one score are
// spread by id instead.

namespace tessera::TESSERA_CUDA_NAMESPACE {

inline constexpr int kBuckets = 2048;
inline constexpr int kBucketsPerLane = kBuckets / 32;
inline constexpr int kMaxListed = kSampleThreads;

struct SelectScratch {
  uint64_t buckets[kBuckets + 32];  // one unused after each lane's, against bank conflicts
  uint64_t masses[kMaxListed];
  float scores[kMaxListed];
  TokenId ids[kMaxListed];
  uint32_t warp_extents[5][kSampleWarps];
  int num_listed;
  int found_bucket;  // -1: all candidates together are too few
  uint64_t remaining;
  Cutoff cutoff;
};

// What to select from: scores of at least `worst` among those that `prior` keeps. Weighted by mass,
// or each counts 1.
struct Selection {
  Scores scores;
  Cutoff prior;
  float worst;
  bool by_mass;

  __device__ uint64_t Mass(float score) const { return by_mass ? MassOf(score, scores.max) : 1; }
};

// Candidates still in question: those of an interval of scores and of ids that fall into a bucket
// of the map (any, where bucket is -1).
struct Candidates {
  float best, worst;
  TokenId first_id, last_id;
  int bucket;
  double buckets_per_score;  // 0: buckets of ids

  __device__ bool Contains(const Selection& selection, float score, TokenId id) const {
    if (!(score >= worst && score <= best) || id < first_id || id > last_id) return false;
    return selection.prior.Keeps(score, id) && (bucket < 0 || BucketOf(score, id) == bucket);
  }

  // Never against the order; the best is in bucket 0 and the worst in another one.
  __device__ int BucketOf(float score, TokenId id) const {
    if (buckets_per_score > 0) {
      return static_cast<int>((double{best} - double{score}) * buckets_per_score);
    }
    const auto range = static_cast<uint64_t>(last_id - first_id) + 1;
    return static_cast<int>(static_cast<uint64_t>(id - first_id) * kBuckets / range);
  }
};

__device__ __forceinline__ int BucketSlot(int bucket) { return bucket + bucket / kBucketsPerLane; }

// Makes the candidates' interval as narrow as they are. Returns how many there are.
__device__ __forceinline__ int NarrowInterval(const Selection& selection, SelectScratch& scratch,
                                              Candidates& candidates) {
  uint32_t extents[5] = {};  // maxima of key, ~key, id, ~id; count
  ForEachIndex(selection.scores.size, [&](int i) {
    const float score = selection.scores.values[i];
    if (!candidates.Contains(selection, score, i)) return;
    const uint32_t key = OrderedKey(score);
    const auto id = static_cast<uint32_t>(i);
    extents[0] = max(extents[0], key);
    extents[1] = max(extents[1], ~key);
    extents[2] = max(extents[2], id);
    extents[3] = max(extents[3], ~id);
    ++extents[4];
  });
  TESSERA_UNROLL
  for (int i = 0; i < 5; ++i) {
    const uint32_t in_warp =
        i < 4 ? __reduce_max_sync(kAllLanes, extents[i]) : __reduce_add_sync(kAllLanes, extents[i]);
    if (threadIdx.x % 32 == 0) scratch.warp_extents[i][threadIdx.x / 32] = in_warp;
  }
  __syncthreads();
  TESSERA_UNROLL
  for (int i = 0; i < 5; ++i) {
    const uint32_t of_warp = scratch.warp_extents[i][threadIdx.x % 32];
    extents[i] =
        i < 4 ? __reduce_max_sync(kAllLanes, of_warp) : __reduce_add_sync(kAllLanes, of_warp);
  }
  candidates.best = FromOrderedKey(extents[0]);
  candidates.worst = FromOrderedKey(~extents[1]);
  candidates.last_id = static_cast<TokenId>(extents[2]);
  candidates.first_id = static_cast<TokenId>(~extents[3]);
  candidates.bucket = -1;
  const bool tied = extents[0] == ~extents[1];
  const double width = double{candidates.best} - double{candidates.worst};
  candidates.buckets_per_score = tied ? 0.0 : (kBuckets - 0.5) / width;
  return static_cast<int>(extents[4]);
}

__device__ __forceinline__ void FillBuckets(const Selection& selection,
                                            const Candidates& candidates, SelectScratch& scratch) {
  ForEachIndex(kBuckets + 32, [&](int i) { scratch.buckets[i] = 0; });
  __syncthreads();
  ForEachIndex(selection.scores.size, [&](int i) {
    const float score = selection.scores.values[i];
    if (!candidates.Contains(selection, score, i)) return;
    uint64_t* bucket = &scratch.buckets[BucketSlot(candidates.BucketOf(score, i))];
    if (selection.by_mass) {
      AtomicAdd64(bucket, selection.Mass(score));
    } else {
      atomicAdd(reinterpret_cast<unsigned*>(bucket), 1u);  // the low half: counts are small
    }
  });
  __syncthreads();
}

// The bucket in which the sum from the best on reaches `target`, and what remains of it there. By
// one warp, 64 buckets a lane.
__device__ __forceinline__ void FindBucket(uint64_t target, SelectScratch& scratch) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane >= 32) return;
  uint64_t in_lane = 0;
  for (int i = 0; i < kBucketsPerLane; ++i) {
    in_lane += scratch.buckets[BucketSlot(lane * kBucketsPerLane + i)];
  }
  uint64_t through = in_lane;
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t below = __shfl_up_sync(kAllLanes, through, static_cast<unsigned>(offset));
    if (lane >= offset) through += below;
  }
  if (lane == 31 && through < target) scratch.found_bucket = -1;
  uint64_t before = through - in_lane;
  if (!(before < target && target <= through)) return;
  int bucket = lane * kBucketsPerLane;
  for (; before + scratch.buckets[BucketSlot(bucket)] < target; ++bucket) {
    before += scratch.buckets[BucketSlot(bucket)];
  }
  scratch.found_bucket = bucket;
  scratch.remaining = target - before;
}

// REQUIRES: no more than kMaxListed candidates.
__device__ __forceinline__ void ListCandidates(const Selection& selection,
                                               const Candidates& candidates,
                                               SelectScratch& scratch) {
  if (threadIdx.x == 0) scratch.num_listed = 0;
  __syncthreads();
  ForEachIndex(selection.scores.size, [&](int i) {
    const float score = selection.scores.values[i];
    if (!candidates.Contains(selection, score, i)) return;
    const int slot = atomicAdd(&scratch.num_listed, 1);
    scratch.scores[slot] = score;
    scratch.ids[slot] = i;
    scratch.masses[slot] = selection.Mass(score);
  });
  __syncthreads();
}

__device__ __forceinline__ bool ComesBefore(float score, TokenId id, float other_score,
                                            TokenId other) {
  return score > other_score || (score == other_score && id < other);
}

// Exactly one candidate ends the prefix: its predecessors have less than `target`, and with itself
// they reach it.
__device__ __forceinline__ Cutoff CutList(uint64_t target, SelectScratch& scratch) {
  if (threadIdx.x == 0) scratch.cutoff = NoCutoff();
  __syncthreads();
  const int num_listed = scratch.num_listed;
  ForEachIndex(num_listed, [&](int i) {
    const float score = scratch.scores[i];
    const TokenId id = scratch.ids[i];
    uint64_t before = 0;
    for (int j = 0; j < num_listed; ++j) {
      if (ComesBefore(scratch.scores[j], scratch.ids[j], score, id)) before += scratch.masses[j];
    }
    if (before < target && target <= before + scratch.masses[i]) scratch.cutoff = {score, id};
  });
  __syncthreads();
  return scratch.cutoff;
}

// The shortest prefix whose masses add up to at least `target` >= 1; all, where they do not.
__device__ __forceinline__ Cutoff SelectPrefix(const Selection& selection, uint64_t target,
                                               SelectScratch& scratch) {
  Candidates candidates = {kMaxScore, selection.worst, 0, selection.scores.size - 1, -1, 0.0};
  while (true) {
    __syncthreads();  // scratch may be in use still
    const int count = NarrowInterval(selection, scratch, candidates);
    if (count <= kMaxListed) {
      ListCandidates(selection, candidates, scratch);
      return CutList(target, scratch);
    }
    FillBuckets(selection, candidates, scratch);
    FindBucket(target, scratch);
    __syncthreads();
    if (scratch.found_bucket < 0) return NoCutoff();
    candidates.bucket = scratch.found_bucket;
    target = scratch.remaining;
  }
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
