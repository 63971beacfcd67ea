#include "tests/simulation/workload.h"

#include <algorithm>

#include "base/philox.h"

namespace tessera {
namespace {

constexpr int kNumTexts = 6;
constexpr TimeNs kMillisecond = 1'000'000;

}  // namespace

int Random::Between(int low, int high) {
  return low + static_cast<int>(engine_() % static_cast<uint64_t>(high - low + 1));
}

World MakeWorld(Random* random, int max_in_flight) {
  World world;
  ExecutorLimits& limits = world.limits;
  limits.page_tokens = random->OneOf({1, 2, 4, 4, 8, 16});
  limits.num_pages = random->OneOf({2, 3, 5, 8, 13, 24, 48});
  limits.max_batch_tokens = random->OneOf({1, 2, 3, 5, 8, 16, 64});
  limits.max_running = random->OneOf({1, 2, 3, 5, 8, 16});
  limits.max_samples = random->OneOf({1, 2, 4, 8, 64});
  limits.max_context = random->OneOf({8, 24, 60, 120});
  limits.vocab_size = random->OneOf({3, 40, 1000});
  limits.max_in_flight = max_in_flight;
  SchedulerOptions& options = world.options;
  options.prefix_cache = !random->OneIn(6);
  options.max_prefill_chunk = random->OneOf({0, 1, 4, 16});
  options.target_step_time = random->OneOf({0, 0, 2, 10}) * kMillisecond;
  options.max_draft_tokens = random->OneOf({0, 1, 3, 8});
  // A scheduler that speculates never has two.
  if (max_in_flight > 1 && random->OneIn(2)) options.max_draft_tokens = 0;
  options.max_partial_prefills = random->Between(1, 4);
  options.max_bypasses = random->Between(0, 4);
  options.max_preemptions = random->OneOf({0, 1, 3, 5});
  options.overdue_after = random->OneOf({0, 20, 500}) * kMillisecond;
  options.overdue_share = random->Between(1, 4);
  world.non_finite_one_in = random->OneOf({0, 0, 0, 300});
  world.num_requests = random->Between(1, 40);
  world.arrivals_one_in = random->OneOf({1, 1, 2, 6});
  world.disturbed_one_in = random->OneOf({3, 8, 30, 200});
  return world;
}

Workload::Workload(const World& world, Random* random)
    : world_(world),
      random_(random),
      longest_(
          std::min(world.limits.max_context, world.limits.num_pages * world.limits.page_tokens)) {
  for (int i = 0; i < 3; ++i) {
    std::vector<TokenId> text(longest_);
    for (TokenId& token : text) token = random->Between(0, world.limits.vocab_size - 1);
    texts_.push_back(std::move(text));
  }
}

void Workload::Remember(const std::vector<TokenId>& tokens) {
  if (static_cast<int>(texts_.size()) < kNumTexts) {
    texts_.push_back(tokens);
  } else {
    texts_[random_->Between(0, kNumTexts - 1)] = tokens;
  }
}

std::vector<TokenId> Workload::MakePrompt() {
  const int num_texts = static_cast<int>(texts_.size());
  const std::vector<TokenId>& text = texts_[random_->Between(0, num_texts - 1)];
  const int most_shared = std::min(static_cast<int>(text.size()), longest_ * 3 / 4);
  const int num_shared = random_->Between(0, most_shared);
  std::vector<TokenId> prompt(text.begin(), text.begin() + num_shared);
  const int num_own = random_->OneIn(3) ? 0 : random_->Between(1, std::max(1, longest_ / 4));
  for (int i = 0; i < num_own; ++i) {
    prompt.push_back(random_->Between(0, world_.limits.vocab_size - 1));
  }
  return prompt;
}

void Workload::AddStops(Request* request) {
  if (random_->OneIn(3)) request->stop_tokens = {1};
  if (random_->OneIn(3)) request->min_tokens = random_->Between(1, 8);
  if (!random_->OneIn(4)) request->banned_before_min = request->stop_tokens;
  if (!random_->OneIn(40)) return;
  for (TokenId token = 0; token < std::min(8, world_.limits.vocab_size); ++token) {
    request->banned_before_min.push_back(token);
  }
}

Request Workload::Next(TimeNs now) {
  Request request;
  request.id = ++last_id_;
  request.tenant = static_cast<TenantId>(random_->Between(0, 2));
  request.priority = random_->OneIn(2) ? 0 : random_->Between(-1, 2);
  if (random_->OneIn(10)) request.deadline = now + random_->Between(0, 600) * kMillisecond;
  request.cache_salt = random_->OneIn(4) ? 1 : 0;
  request.prompt = MakePrompt();
  const int most_tokens = longest_ - static_cast<int>(request.prompt.size());
  request.max_tokens = random_->OneIn(8) ? -1 : random_->Between(1, std::max(1, most_tokens));
  if (random_->OneIn(4)) request.num_sequences = random_->Between(1, 5);
  request.sampling.temperature = random_->OneIn(2) ? 0.0f : 1.0f;
  request.sampling.seed = random_->Word() & kSeedMask;
  if (random_->OneIn(4)) request.num_logprobs = random_->Between(0, 3);
  if (random_->OneIn(8)) request.num_prompt_logprobs = random_->Between(0, 3);
  AddStops(&request);
  return request;
}

}  // namespace tessera
