#include "tests/model/step_harness.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace tessera {

int32_t StepDraft::AddSequence(std::span<const TokenId> tokens, int32_t kv_length,
                               std::span<const PageId> pages) {
  const int32_t first_row = query_starts_.back();
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  query_starts_.push_back(static_cast<int32_t>(tokens_.size()));
  kv_lengths_.push_back(kv_length);
  page_ids_.insert(page_ids_.end(), pages.begin(), pages.end());
  page_starts_.push_back(static_cast<int32_t>(page_ids_.size()));
  return first_row;
}

StepInput StepDraft::Input() const {
  return {.tokens = tokens_,
          .query_starts = query_starts_,
          .kv_lengths = kv_lengths_,
          .page_starts = page_starts_,
          .page_ids = page_ids_,
          .slot_starts = slot_starts_,
          .page_copies = page_copies_,
          .samples = samples_};
}

std::string JobOutput::Digest() const {
  std::string bits;
  const auto append = [&bits](const auto& value) {
    bits.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  const auto append_scores = [&](const std::vector<std::vector<ScoredToken>>& rows) {
    for (const auto& row : rows) {
      append(row.size());
      for (const ScoredToken& scored : row) {
        append(scored.token);
        append(scored.logprob);
      }
    }
  };
  for (TokenId token : tokens) append(token);
  for (TokenStatus status : statuses) append(status);
  append_scores(logprobs);
  for (TokenStatus status : prompt_statuses) append(status);
  append_scores(prompt_logprobs);
  std::string digest = absl::StrFormat("%016x:", XXH3_64bits(bits.data(), bits.size()));
  for (TokenId token : tokens) absl::StrAppendFormat(&digest, " %d", token);
  return digest;
}

namespace {

// A job under way.
class RunningJob {
 public:
  RunningJob(const Job& job, int32_t slot)
      : job_(job), slot_(slot), tokens_(job.prompt), was_preempted_(job.preempt_after == 0) {}

  bool is_done() const {
    return output_.tokens.size() == static_cast<size_t>(job_.num_tokens) || has_failed_;
  }
  const JobOutput& output() const { return output_; }

  // Adds this job's rows to the step, taking pages off `free_pages`.
  void AddTo(StepDraft* draft, int step, std::deque<PageId>* free_pages) {
    num_samples_ = num_drafts_ = 0;
    if (is_done() || step < job_.first_step) return;
    MaybePreempt(free_pages);
    if (num_computed_ == 0) {
      draft->AddSlotStart({.slot = slot_,
                           .params = &job_.params,
                           .tokens = tokens_,
                           .prompt_length = static_cast<int32_t>(job_.prompt.size())});
    }
    const int num_tokens = static_cast<int>(tokens_.size());
    const int num_rows = std::min(job_.chunk, num_tokens - num_computed_);
    std::vector<TokenId> rows(tokens_.begin() + num_computed_,
                              tokens_.begin() + num_computed_ + num_rows);
    const std::span<const TokenId> drafts = Drafts(num_computed_ + num_rows);
    rows.insert(rows.end(), drafts.begin(), drafts.end());
    const int kv_length = num_computed_ + static_cast<int>(rows.size());
    while (static_cast<int>(pages_.size()) * 64 < kv_length) {
      CHECK(!free_pages->empty()) << "the test's pool is too small";
      pages_.push_back(free_pages->front());
      free_pages->pop_front();
    }
    const int32_t first_row = draft->AddSequence(rows, kv_length, pages_);
    AddSamples(draft, first_row, num_rows);
    AddDraftSamples(draft, first_row + num_rows, drafts);
    num_computed_ += num_rows;
  }

  // Takes this job's results off the front of the step's.
  void Take(std::span<const SampledToken>* results) {
    for (int i = 0; i < num_samples_; ++i) TakeOne((*results)[i]);
    for (int i = num_samples_; i < num_samples_ + num_drafts_; ++i) TakeDrafted((*results)[i]);
    *results = results->subspan(num_samples_ + num_drafts_);
  }

 private:
  void MaybePreempt(std::deque<PageId>* free_pages) {
    if (was_preempted_ || output_.tokens.size() < static_cast<size_t>(job_.preempt_after)) return;
    was_preempted_ = true;
    free_pages->insert(free_pages->end(), pages_.rbegin(), pages_.rend());
    pages_.clear();
    num_computed_ = 0;
  }

  void AddSamples(StepDraft* draft, int32_t first_row, int num_rows) {
    const int prompt_length = static_cast<int>(job_.prompt.size());
    for (int i = 0; i < num_rows; ++i) {
      const int position = num_computed_ + i + 1;  // of the token to choose
      const bool is_prompt = position < prompt_length;
      const bool is_wanted = is_prompt ? job_.scores_prompt : position == std::ssize(tokens_);
      const bool is_known =
          static_cast<size_t>(position) <= output_.prompt_statuses.size() && is_prompt;
      if (!is_wanted || is_known) continue;
      draft->AddSample({.row = first_row + i,
                        .slot = slot_,
                        .position = position,
                        .forced = is_prompt ? tokens_[position] : -1,
                        .banned = {},
                        .num_logprobs = 5,
                        .wants_logprob = true});
      ++num_samples_;
    }
  }

  // What follows once `num_computed` tokens are: nothing unless these are all there are.
  std::span<const TokenId> Drafts(int num_computed) const {
    if (num_computed < std::ssize(tokens_)) return {};
    const size_t first = output_.tokens.size();
    const size_t last = std::min({job_.guesses.size(), first + job_.drafts_a_step,
                                  static_cast<size_t>(job_.num_tokens - 1)});
    return std::span(job_.guesses).subspan(first, std::max(first, last) - first);
  }

  void AddDraftSamples(StepDraft* draft, int32_t row, std::span<const TokenId> drafts) {
    int position = static_cast<int>(tokens_.size());
    for (const TokenId token : drafts) {
      draft->AddSample({.row = row++,
                        .slot = slot_,
                        .position = ++position,
                        .draft = token,
                        .banned = {},
                        .num_logprobs = 5,
                        .wants_logprob = true});
      ++num_drafts_;
    }
  }

  void TakeDrafted(const SampledToken& result) {
    if (result.status == TokenStatus::kRejected) return;
    ++num_computed_;
    TakeOne(result);
  }

  void TakeOne(const SampledToken& result) {
    const std::vector<ScoredToken> logprobs(result.logprobs.begin(), result.logprobs.end());
    const bool is_prompt =
        job_.scores_prompt && output_.prompt_statuses.size() + 1 < job_.prompt.size();
    if (is_prompt) {
      output_.prompt_statuses.push_back(result.status);
      output_.prompt_logprobs.push_back(logprobs);
      return;
    }
    output_.tokens.push_back(result.token);
    output_.statuses.push_back(result.status);
    output_.logprobs.push_back(logprobs);
    has_failed_ = result.status != TokenStatus::kOk;
    tokens_.push_back(result.token);
  }

  const Job& job_;
  const int32_t slot_;
  std::vector<TokenId> tokens_;  // prompt, then output
  std::vector<PageId> pages_;
  int num_computed_ = 0;
  int num_samples_ = 0;  // in the step under way
  int num_drafts_ = 0;   // likewise
  bool was_preempted_;
  bool has_failed_ = false;
  JobOutput output_;
};

}  // namespace

std::vector<JobOutput> RunJobs(Executor* executor, const std::vector<Job>& jobs, int first_slot) {
  const int num_pages = executor->limits().num_pages;
  std::deque<PageId> free_pages;
  for (int i = 0; i < num_pages; ++i) {
    free_pages.push_back(i % 2 == 0 ? i / 2 : num_pages - 1 - i / 2);
  }
  std::vector<RunningJob> running;
  running.reserve(jobs.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    running.emplace_back(jobs[i], first_slot + static_cast<int32_t>(i));
  }
  const auto is_done = [](const RunningJob& job) { return job.is_done(); };
  for (int step = 0; !std::all_of(running.begin(), running.end(), is_done); ++step) {
    StepDraft draft;
    for (RunningJob& job : running) job.AddTo(&draft, step, &free_pages);
    const StepResult result = executor->Wait(executor->Launch(draft.Input()));
    std::span<const SampledToken> tokens = result.tokens;
    for (RunningJob& job : running) job.Take(&tokens);
    CHECK(tokens.empty()) << tokens.size() << " results that nobody asked for";
  }
  std::vector<JobOutput> outputs;
  outputs.reserve(running.size());
  for (const RunningJob& job : running) outputs.push_back(job.output());
  return outputs;
}

std::vector<TokenId> SomeTokens(int count, TokenId min, TokenId max, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (TokenId& token : tokens) {
    token = min + static_cast<TokenId>(random() % static_cast<uint32_t>(max - min));
  }
  return tokens;
}

}  // namespace tessera
