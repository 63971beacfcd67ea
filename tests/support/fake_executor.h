#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "model/executor.h"

namespace tessera {

// A model without arithmetic: what follows a context is a hash of the whole context and, like the
// real model's, of nothing else. Any wrong token, position, page or slot gives other tokens.
struct FakeModel {
  struct Choice {
    TokenId token = -1;
    TokenStatus status = TokenStatus::kOk;
    std::vector<ScoredToken> logprobs;
  };

  int vocab_size = 0;
  int non_finite_one_in = 0;  // so many contexts have logits that are not finite; 0: none
  // Overrides the hash: the next token after these (prompt, then output). Called on the engine
  // thread.
  std::function<TokenId(std::span<const TokenId> tokens, int prompt_length)> next_token;

  // What one position adds to what is stored before it.
  static uint64_t StoredState(uint64_t previous, TokenId token, int position);
  // Folds all that is stored for a context: one value a position.
  static uint64_t FoldContext(uint64_t fold, uint64_t stored);
  static uint64_t ContextOf(std::span<const TokenId> tokens);

  // The reference: the choice after `tokens`, computed from them alone.
  Choice Choose(std::span<const TokenId> tokens, int prompt_length, const SamplingParams& params,
                std::span<const TokenId> banned, int num_logprobs) const;
  // The same from a context's hash, and the tokens that the slot knows of.
  Choice ChooseAfter(uint64_t context, std::span<const TokenId> slot_tokens, int prompt_length,
                     const SamplingParams& params, std::span<const TokenId> banned,
                     int num_logprobs) const;
  bool IsNonFinite(uint64_t context) const;
  // num_logprobs < 0: none.
  std::vector<ScoredToken> Logprobs(uint64_t context, TokenId chosen, int num_logprobs) const;

 private:
  TokenId PickToken(uint64_t hash, std::span<const TokenId> banned) const;
  float Logprob(uint64_t context, TokenId token) const;
};

// An Executor around FakeModel that is faithful about KV: each position's state is stored in its
// page and read back through the page table, so a page that is reused too early, shared wrongly,
// not copied or published before it was written changes the output. Steps run in launch order, up
// to limits.max_in_flight ahead of the one waited for. Aborts on a step that breaks the contract of
// model/step.h.
class FakeExecutor final : public Executor {
 public:
  explicit FakeExecutor(const ExecutorLimits& limits);

  // Set it up before the first Launch.
  FakeModel* model() { return &model_; }

  // Executor.
  ExecutorLimits limits() const override { return limits_; }
  StepTicket Launch(const StepInput& input) override;
  StepResult Wait(StepTicket ticket) override;

  // What the page holds for its token `offset`.
  uint64_t StoredIn(PageId page, int offset) const {
    return stored_[static_cast<size_t>(page) * limits_.page_tokens + offset];
  }

  // From any thread: Wait does not return while paused.
  void Pause() EXCLUDES_LOCK(mutex_);
  void Resume() EXCLUDES_LOCK(mutex_);
  // Blocks until so many steps were launched since construction.
  void AwaitSteps(uint64_t num_steps) EXCLUDES_LOCK(mutex_);
  uint64_t num_steps() EXCLUDES_LOCK(mutex_);
  int max_rows_in_a_step() EXCLUDES_LOCK(mutex_);
  // Steps that were launched while another was in flight.
  uint64_t num_overlapped_steps() EXCLUDES_LOCK(mutex_);
  uint64_t num_in_flight() EXCLUDES_LOCK(mutex_);

 private:
  struct Slot {
    std::vector<TokenId> tokens;  // prompt, then output, where a failed choice counts as token 0
    uint64_t chose_in_step = 0;   // the last one that chose a token for it
    int prompt_length = 0;
    const SamplingParams* params = nullptr;
  };
  struct PageUse {
    uint64_t step = 0;
    int writer = -1;
  };

  // What a step returns, until another one takes its place.
  struct Results {
    std::vector<FakeModel::Choice> choices;
    std::vector<SampledToken> sampled;
  };

  TokenId Resolve(TokenId token) const;
  void StartSlots(const StepInput& input);
  void CopyPages(const StepInput& input);
  void ClaimWrittenPages(const StepInput& input);
  void CheckReadPages(const StepInput& input);
  void StoreRows(const StepInput& input, int sequence);
  void Sample(const StepInput& input, Results* results);
  uint64_t ReadContext(const StepInput& input, int sequence, int num_positions) const;
  size_t StoredAt(const StepInput& input, int sequence, int position) const;
  FakeModel::Choice Answer(const SampleRequest& sample, uint64_t context);

  const ExecutorLimits limits_;
  FakeModel model_;
  std::vector<uint64_t> stored_;    // [num_pages, page_tokens]
  std::vector<PageUse> page_uses_;  // [num_pages]
  std::vector<Slot> slots_;         // [max_running]
  std::vector<Results> results_;    // [max_in_flight], by ticket
  uint64_t step_ = 0;               // being launched, or launched last

  Mutex mutex_;
  CondVar changed_;
  bool paused_ GUARDED_BY(mutex_) = false;
  uint64_t num_launched_ GUARDED_BY(mutex_) = 0;
  uint64_t num_waited_ GUARDED_BY(mutex_) = 0;
  uint64_t num_overlapped_ GUARDED_BY(mutex_) = 0;
  int max_rows_ GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera
