#include "base/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_choose.cuh"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

__device__ void CountToken(const DeviceSampleRow& row, TokenId token) {
  const int num_seen = *row.num_seen;
  uint32_t found = 0;  // its index + 1
  ForEachIndex(num_seen, [&](int i) {
    if (row.seen[i].token == token) found = static_cast<uint32_t>(i) + 1;
  });
  found = BlockMax(found);
  if (threadIdx.x != 0) return;
  if (found > 0) {
    ++row.seen[found - 1].output_count;
  } else {
    row.seen[num_seen] = {token, 1};
    *row.num_seen = num_seen + 1;
  }
}

// The row's slot has got this token; -1: none.
__device__ void KeepToken(const DeviceSampleRow& row, TokenId token) {
  if (row.last_token == nullptr) return;
  if (token >= 0 && row.seen != nullptr) CountToken(row, token);
  if (threadIdx.x == 0) *row.last_token = token;
}

__device__ void Finish(const DeviceSampleRow& row, SampleStatus status, TokenId token,
                       int num_logprobs, DeviceSampleResult* result) {
  KeepToken(row, token);
  if (threadIdx.x != 0) return;
  result->token = token;
  result->status = status;
  result->num_logprobs = num_logprobs;
}

// Makes the list of scratch the best `count` tokens, of all there are.
__device__ void ListBest(const Scores& raw, int count, SelectScratch& scratch) {
  const Cutoff cutoff = TopK(raw, count, scratch);
  __syncthreads();
  const Candidates kept = {kMaxScore, -kMaxScore, 0, raw.size - 1, -1, 0.0};
  ListCandidates({raw, cutoff, -kMaxScore, false}, kept, scratch);
}

// The top log-probabilities in order, then the chosen token's where it is not among them. Returns
// how many.
__device__ int WriteLogprobs(const Scores& raw, TokenId chosen, int count, SelectScratch& scratch,
                             TokenLogprob* out) {
  const float log_sum = LogOfMass(static_cast<double>(SumMasses(raw, NoCutoff())));
  // + 0 since raw.max is 0 where the largest logit is -0.
  const auto logprob = [&](float logit) { return ((logit - raw.max) + 0.0f) - log_sum; };
  int num_listed = 0;
  if (count > 0) {
    ListBest(raw, min(count, raw.size), scratch);
    num_listed = scratch.num_listed;
  }
  bool has_chosen = false;
  for (int i = 0; i < num_listed; ++i) has_chosen |= scratch.ids[i] == chosen;
  ForEachIndex(num_listed, [&](int i) {
    int rank = 0;
    for (int j = 0; j < num_listed; ++j) {
      rank += ComesBefore(scratch.scores[j], scratch.ids[j], scratch.scores[i], scratch.ids[i]);
    }
    out[rank] = {scratch.ids[i], logprob(scratch.scores[i])};
  });
  if (has_chosen) return num_listed;
  if (threadIdx.x == 0) out[num_listed] = {chosen, logprob(raw.values[chosen])};
  return num_listed + 1;
}

// One block a row.
__global__ void __launch_bounds__(kSampleThreads, 1) SampleKernel(SampleParams params) {
  TESSERA_SHARED(SelectScratch, scratch);
  const int size = static_cast<int>(params.vocab_size);
  const float* logits = params.logits + int64_t{blockIdx.x} * params.vocab_size;
  float* room = static_cast<float*>(params.workspace) + int64_t{blockIdx.x} * params.vocab_size;
  const DeviceSampleRow& row = params.rows[blockIdx.x];
  DeviceSampleResult* result = params.results + blockIdx.x;

  if (row.draft >= 0 && *row.last_token != row.draft) {
    return Finish(row, SampleStatus::kNoTokenLeft, -1, 0, result);
  }
  const uint32_t best = ScanLogits(logits, size);
  if (best == kNonFiniteKey) return Finish(row, SampleStatus::kNonFiniteLogits, -1, 0, result);
  const Scores raw = {logits, size, FromOrderedKey(best)};
  TokenId token = row.forced;
  if (token < 0) {
    token = ChooseToken(MakeScores(logits, size, raw.max, row, room), row, scratch);
  }
  if (token < 0) return Finish(row, SampleStatus::kNoTokenLeft, -1, 0, result);
  int num_logprobs = 0;
  if (row.wants_logprob) {
    num_logprobs = WriteLogprobs(raw, token, row.num_logprobs, scratch, result->logprobs);
  }
  Finish(row, SampleStatus::kOk, token, num_logprobs, result);
}

}  // namespace

size_t SampleWorkspaceBytes(int num_rows, int64_t vocab_size) {
  return static_cast<size_t>(num_rows * vocab_size) * sizeof(float);
}

void Sample(const SampleParams& params, const Stream& stream) {
  if (params.num_rows == 0) return;
  CHECK_GT(params.vocab_size, 0);
  Launch<SampleKernel>(stream, static_cast<unsigned>(params.num_rows), kSampleThreads, 0, params);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
