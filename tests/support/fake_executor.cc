#include "tests/support/fake_executor.h"

#include <algorithm>

#include "base/check.h"

namespace tessera {
namespace {

constexpr int kNumTop = 20;  // most logprobs a request may ask for

// The finalizer of SplitMix64 over both values.
uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9E3779B97F4A7C15u + b + 0x632BE59BD9B4E019u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

int QueryLength(const StepInput& input, int sequence) {
  return input.query_starts[sequence + 1] - input.query_starts[sequence];
}

int NumSequences(const StepInput& input) { return static_cast<int>(input.kv_lengths.size()); }

// The sequence that owns `row`, looking from `first` on.
int SequenceOfRow(const StepInput& input, int row, int first) {
  while (input.query_starts[first + 1] <= row) ++first;
  return first;
}

void CheckShape(const StepInput& input, const ExecutorLimits& limits) {
  const int num_sequences = NumSequences(input);
  CHECK_GE(num_sequences, 1);
  CHECK_LE(static_cast<int>(input.tokens.size()), limits.max_batch_tokens);
  CHECK_LE(static_cast<int>(input.samples.size()), limits.max_samples);
  CHECK_EQ(static_cast<int>(input.query_starts.size()), num_sequences + 1);
  CHECK_EQ(static_cast<int>(input.page_starts.size()), num_sequences + 1);
  CHECK_EQ(input.query_starts[0], 0);
  CHECK_EQ(input.query_starts.back(), static_cast<int>(input.tokens.size()));
  CHECK_EQ(input.page_starts.back(), static_cast<int>(input.page_ids.size()));
  for (int i = 0; i < num_sequences; ++i) {
    CHECK_GE(QueryLength(input, i), 1);
    CHECK_LE(QueryLength(input, i), input.kv_lengths[i]);
    CHECK_LE(input.kv_lengths[i], limits.max_context);
    const int num_pages = input.page_starts[i + 1] - input.page_starts[i];
    CHECK_LE(input.kv_lengths[i], num_pages * limits.page_tokens);
  }
  for (const TokenId token : input.tokens) CHECK_LT(token, limits.vocab_size);
  for (const PageId page : input.page_ids) CHECK(page >= 0 && page < limits.num_pages);
}

}  // namespace

uint64_t FakeModel::StoredState(uint64_t previous, TokenId token, int position) {
  return Mix(Mix(previous, static_cast<uint64_t>(token)), static_cast<uint64_t>(position));
}

uint64_t FakeModel::FoldContext(uint64_t fold, uint64_t stored) { return Mix(fold, stored); }

uint64_t FakeModel::ContextOf(std::span<const TokenId> tokens) {
  uint64_t stored = 0;
  uint64_t fold = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    stored = StoredState(stored, tokens[i], static_cast<int>(i));
    fold = FoldContext(fold, stored);
  }
  return fold;
}

FakeModel::Choice FakeModel::Choose(std::span<const TokenId> tokens, int prompt_length,
                                    const SamplingParams& params, std::span<const TokenId> banned,
                                    int num_logprobs) const {
  return ChooseAfter(ContextOf(tokens), tokens, prompt_length, params, banned, num_logprobs);
}

FakeModel::Choice FakeModel::ChooseAfter(uint64_t context, std::span<const TokenId> slot_tokens,
                                         int prompt_length, const SamplingParams& params,
                                         std::span<const TokenId> banned, int num_logprobs) const {
  Choice choice;
  if (IsNonFinite(context)) {
    choice.status = TokenStatus::kNonFiniteLogits;
    return choice;
  }
  uint64_t hash = Mix(context, static_cast<uint64_t>(prompt_length));
  for (const TokenId token : slot_tokens) hash = Mix(hash, static_cast<uint64_t>(token));
  if (params.temperature >= 1e-5f) hash = Mix(Mix(hash, params.seed), slot_tokens.size());
  choice.token = next_token ? next_token(slot_tokens, prompt_length) : PickToken(hash, banned);
  if (choice.token < 0) {
    choice.status = TokenStatus::kNoTokenLeft;
    return choice;
  }
  choice.logprobs = Logprobs(context, choice.token, num_logprobs);
  return choice;
}

bool FakeModel::IsNonFinite(uint64_t context) const {
  return non_finite_one_in > 0 && context % static_cast<uint64_t>(non_finite_one_in) == 0;
}

TokenId FakeModel::PickToken(uint64_t hash, std::span<const TokenId> banned) const {
  const TokenId first = static_cast<TokenId>(hash % static_cast<uint64_t>(vocab_size));
  for (int i = 0; i < vocab_size; ++i) {
    const TokenId token = (first + i) % vocab_size;
    if (std::ranges::find(banned, token) == banned.end()) return token;
  }
  return -1;
}

std::vector<ScoredToken> FakeModel::Logprobs(uint64_t context, TokenId chosen,
                                             int num_logprobs) const {
  std::vector<ScoredToken> scored;
  if (num_logprobs < 0) return scored;
  const TokenId first = static_cast<TokenId>(context % static_cast<uint64_t>(vocab_size));
  for (int i = 0; i < std::min(num_logprobs, vocab_size); ++i) {
    const TokenId token = (first + i) % vocab_size;
    scored.push_back({token, Logprob(context, token)});
  }
  const auto is_chosen = [chosen](const ScoredToken& entry) { return entry.token == chosen; };
  if (std::ranges::none_of(scored, is_chosen)) scored.push_back({chosen, Logprob(context, chosen)});
  return scored;
}

// The kNumTop tokens after a hashed one are the likeliest, in order; the rest follow unordered.
float FakeModel::Logprob(uint64_t context, TokenId token) const {
  const TokenId first = static_cast<TokenId>(context % static_cast<uint64_t>(vocab_size));
  const int rank = (token - first + vocab_size) % vocab_size;
  if (rank < kNumTop) return -0.5f * static_cast<float>(rank + 1);
  return -11.0f - static_cast<float>(Mix(context, static_cast<uint64_t>(token)) % 1024) / 64.0f;
}

FakeExecutor::FakeExecutor(const ExecutorLimits& limits)
    : limits_(limits),
      stored_(static_cast<size_t>(limits.num_pages) * limits.page_tokens),
      page_uses_(limits.num_pages),
      slots_(limits.max_running),
      results_(limits.max_in_flight) {
  model_.vocab_size = limits.vocab_size;
}

StepTicket FakeExecutor::Launch(const StepInput& input) {
  CheckShape(input, limits_);
  MutexLock lock(&mutex_);
  const uint64_t num_in_flight = num_launched_ - num_waited_;
  CHECK_LT(num_in_flight, static_cast<uint64_t>(limits_.max_in_flight)) << "too many steps";
  if (num_in_flight > 0) ++num_overlapped_;
  step_ = ++num_launched_;
  max_rows_ = std::max(max_rows_, static_cast<int>(input.tokens.size()));
  CHECK(num_in_flight > 0 || std::ranges::none_of(input.tokens, IsLastToken))
      << "a token is looked up that is known";
  for (PageUse& use : page_uses_) use.writer = -1;
  StartSlots(input);
  ClaimWrittenPages(input);
  CheckReadPages(input);
  CopyPages(input);
  for (int i = 0; i < NumSequences(input); ++i) StoreRows(input, i);
  Sample(input, &results_[step_ % results_.size()]);
  changed_.NotifyAll();
  return num_launched_;
}

void FakeExecutor::StartSlots(const StepInput& input) {
  for (const SlotStart& start : input.slot_starts) {
    CHECK(start.slot >= 0 && start.slot < limits_.max_running);
    CHECK(start.params != nullptr);
    slots_[start.slot].tokens.assign(start.tokens.begin(), start.tokens.end());
    slots_[start.slot].prompt_length = start.prompt_length;
    slots_[start.slot].params = start.params;
    slots_[start.slot].chose_in_step = 0;
  }
}

TokenId FakeExecutor::Resolve(TokenId token) const {
  if (!IsLastToken(token)) return token;
  const Slot& slot = slots_.at(static_cast<size_t>(SlotOfLastToken(token)));
  CHECK_EQ(slot.chose_in_step + 1, step_) << "the step before chose nothing for the slot";
  return slot.tokens.back();
}

void FakeExecutor::ClaimWrittenPages(const StepInput& input) {
  for (int i = 0; i < NumSequences(input); ++i) {
    const int first = (input.kv_lengths[i] - QueryLength(input, i)) / limits_.page_tokens;
    const int last = (input.kv_lengths[i] - 1) / limits_.page_tokens;
    for (int p = first; p <= last; ++p) {
      PageUse& use = page_uses_[input.page_ids[input.page_starts[i] + p]];
      CHECK_EQ(use.writer, -1) << "two sequences write one page";
      use.writer = i;
    }
  }
}

void FakeExecutor::CheckReadPages(const StepInput& input) {
  for (int i = 0; i < NumSequences(input); ++i) {
    for (int p = 0; p * limits_.page_tokens < input.kv_lengths[i]; ++p) {
      const int writer = page_uses_[input.page_ids[input.page_starts[i] + p]].writer;
      CHECK(writer == -1 || writer == i) << "a page is read while another sequence writes it";
    }
  }
}

void FakeExecutor::CopyPages(const StepInput& input) {
  for (const PageCopy& copy : input.page_copies) {
    CHECK(copy.num_tokens >= 1 && copy.num_tokens <= limits_.page_tokens);
    for (const PageCopy& other : input.page_copies) {
      CHECK(copy.from != other.to) << "a page is both source and destination";
      CHECK(&copy == &other || copy.to != other.to) << "two copies into one page";
    }
    const size_t from = static_cast<size_t>(copy.from) * limits_.page_tokens;
    const size_t to = static_cast<size_t>(copy.to) * limits_.page_tokens;
    std::copy_n(stored_.begin() + from, copy.num_tokens, stored_.begin() + to);
  }
}

size_t FakeExecutor::StoredAt(const StepInput& input, int sequence, int position) const {
  const int index = input.page_starts[sequence] + position / limits_.page_tokens;
  const size_t page = static_cast<size_t>(input.page_ids[index]);
  return page * limits_.page_tokens + position % limits_.page_tokens;
}

void FakeExecutor::StoreRows(const StepInput& input, int sequence) {
  const int end = input.kv_lengths[sequence];
  int position = end - QueryLength(input, sequence);
  for (int row = input.query_starts[sequence]; position < end; ++row, ++position) {
    const uint64_t previous = position == 0 ? 0 : stored_[StoredAt(input, sequence, position - 1)];
    stored_[StoredAt(input, sequence, position)] =
        FakeModel::StoredState(previous, Resolve(input.tokens[row]), position);
  }
}

uint64_t FakeExecutor::ReadContext(const StepInput& input, int sequence, int num_positions) const {
  uint64_t fold = 0;
  for (int i = 0; i < num_positions; ++i) {
    fold = FakeModel::FoldContext(fold, stored_[StoredAt(input, sequence, i)]);
  }
  return fold;
}

void FakeExecutor::Sample(const StepInput& input, Results* results) {
  std::vector<FakeModel::Choice>& choices = results->choices;
  choices.clear();
  int sequence = 0;
  int previous_row = -1;
  uint64_t context = 0;
  for (const SampleRequest& sample : input.samples) {
    CHECK_GE(sample.row, previous_row);
    CHECK_LT(sample.row, static_cast<int>(input.tokens.size()));
    if (sample.row != previous_row) {
      sequence = SequenceOfRow(input, sample.row, sequence);
      const int position =
          input.kv_lengths[sequence] - input.query_starts[sequence + 1] + sample.row;
      CHECK_EQ(sample.position, position + 1);
      context = ReadContext(input, sequence, position + 1);
      previous_row = sample.row;
    }
    if (sample.draft >= 0) CHECK_EQ(sample.draft, input.tokens[sample.row]);
    const bool is_rejected =
        sample.draft >= 0 && (choices.empty() || choices.back().token != sample.draft);
    choices.push_back(is_rejected ? FakeModel::Choice{-1, TokenStatus::kRejected, {}}
                                  : Answer(sample, context));
  }
  results->sampled.clear();
  for (const FakeModel::Choice& choice : choices) {
    results->sampled.push_back({choice.token, choice.status, choice.logprobs});
  }
}

FakeModel::Choice FakeExecutor::Answer(const SampleRequest& sample, uint64_t context) {
  const int num_logprobs = sample.wants_logprob ? sample.num_logprobs : -1;
  Slot& slot = slots_[sample.slot];
  CHECK(slot.params != nullptr) << "slot " << sample.slot << " was not started";
  if (sample.forced >= 0) {
    CHECK_LT(sample.position, slot.prompt_length);
    CHECK_EQ(sample.forced, slot.tokens[sample.position]);
    if (model_.IsNonFinite(context)) return {-1, TokenStatus::kNonFiniteLogits, {}};
    return {sample.forced, TokenStatus::kOk, model_.Logprobs(context, sample.forced, num_logprobs)};
  }
  CHECK_EQ(sample.position, static_cast<int>(slot.tokens.size())) << "the slot's tokens are stale";
  FakeModel::Choice choice = model_.ChooseAfter(context, slot.tokens, slot.prompt_length,
                                                *slot.params, sample.banned, num_logprobs);
  slot.tokens.push_back(std::max(0, choice.token));
  slot.chose_in_step = step_;
  return choice;
}

StepResult FakeExecutor::Wait(StepTicket ticket) {
  MutexLock lock(&mutex_);
  CHECK_EQ(ticket, num_waited_ + 1) << "tickets are waited for in order, each once";
  while (paused_) changed_.Wait(&mutex_);
  num_waited_ = ticket;
  return {results_[ticket % results_.size()].sampled};
}

void FakeExecutor::Pause() {
  MutexLock lock(&mutex_);
  paused_ = true;
}

void FakeExecutor::Resume() {
  MutexLock lock(&mutex_);
  paused_ = false;
  changed_.NotifyAll();
}

void FakeExecutor::AwaitSteps(uint64_t num_steps) {
  MutexLock lock(&mutex_);
  while (num_launched_ < num_steps) changed_.Wait(&mutex_);
}

uint64_t FakeExecutor::num_steps() {
  MutexLock lock(&mutex_);
  return num_launched_;
}

uint64_t FakeExecutor::num_overlapped_steps() {
  MutexLock lock(&mutex_);
  return num_overlapped_;
}

uint64_t FakeExecutor::num_in_flight() {
  MutexLock lock(&mutex_);
  return num_launched_ - num_waited_;
}

int FakeExecutor::max_rows_in_a_step() {
  MutexLock lock(&mutex_);
  return max_rows_;
}

}  // namespace tessera
