#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "model/executor.h"

namespace tessera {

// Collects one step's ragged batch, by hand.
class StepDraft {
 public:
  // Rows `tokens` as the newest of `kv_length` in `pages`; returns the first row's index.
  int32_t AddSequence(std::span<const TokenId> tokens, int32_t kv_length,
                      std::span<const PageId> pages);
  void AddSlotStart(const SlotStart& start) { slot_starts_.push_back(start); }
  void AddCopy(const PageCopy& copy) { page_copies_.push_back(copy); }
  void AddSample(const SampleRequest& request) { samples_.push_back(request); }

  bool empty() const { return tokens_.empty(); }
  StepInput Input() const;

 private:
  std::vector<TokenId> tokens_;
  std::vector<int32_t> query_starts_ = {0};
  std::vector<int32_t> kv_lengths_;
  std::vector<int32_t> page_starts_ = {0};
  std::vector<PageId> page_ids_;
  std::vector<SlotStart> slot_starts_;
  std::vector<PageCopy> page_copies_;
  std::vector<SampleRequest> samples_;
};

// One sequence to run, and the circumstances, which may not change what comes out.
struct Job {
  std::vector<TokenId> prompt;
  SamplingParams params;
  int num_tokens = 8;  // to generate
  bool scores_prompt = false;

  int first_step = 0;     // joins the batch then
  int chunk = 1 << 20;    // rows a step at most
  int preempt_after = 0;  // > 0: with so many tokens generated, loses its pages and starts again
  std::vector<TokenId> guesses = {};  // what it may generate, right or wrong: drafted ahead
  int drafts_a_step = 0;
};

struct JobOutput {
  std::vector<TokenId> tokens;
  std::vector<TokenStatus> statuses;               // of each token
  std::vector<std::vector<ScoredToken>> logprobs;  // of each token
  std::vector<TokenStatus> prompt_statuses;        // of prompt tokens 1..; empty unless scored
  std::vector<std::vector<ScoredToken>> prompt_logprobs;

  // The tokens, and a hash of every bit of the above: to compare by.
  std::string Digest() const;
};

// Runs the jobs together, one step at a time, until all are done. Pages are dealt out in an order
// that scatters each sequence over the pool; job i has slot (i + first_slot).
std::vector<JobOutput> RunJobs(Executor* executor, const std::vector<Job>& jobs,
                               int first_slot = 0);
inline JobOutput RunJob(Executor* executor, const Job& job, int slot = 0) {
  return RunJobs(executor, {job}, slot).front();
}

// Tokens that look random, in [min, max).
std::vector<TokenId> SomeTokens(int count, TokenId min, TokenId max, uint32_t seed);

}  // namespace tessera
