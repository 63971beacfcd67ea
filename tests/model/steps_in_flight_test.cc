#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "gtest/gtest.h"
#include "model/model_runner.h"
#include "scheduler/engine.h"
#include "tests/kernels/backend_cases.h"
#include "tests/model/load_runner.h"
#include "tests/model/step_harness.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/tiny_model.h"

// A model on a device behind an engine: two steps in flight give the bits of one at a time.

namespace tessera {
namespace {

constexpr TokenId kFirstToken = 4;  // the tiny model's special ones come before

// Passes steps on, one at a time or two, and counts.
class WatchedExecutor final : public Executor {
 public:
  WatchedExecutor(Executor* inner, int max_in_flight)
      : inner_(*inner), max_in_flight_(max_in_flight) {}

  ExecutorLimits limits() const override {
    ExecutorLimits limits = inner_.limits();
    limits.max_in_flight = max_in_flight_;
    return limits;
  }
  StepTicket Launch(const StepInput& input) override {
    num_overlapped_ += num_in_flight_++;
    num_looked_up_ += std::ranges::count_if(input.tokens, IsLastToken);
    return inner_.Launch(input);
  }
  StepResult Wait(StepTicket ticket) override {
    --num_in_flight_;
    return inner_.Wait(ticket);
  }

  // Read when no engine runs.
  int64_t num_overlapped() const { return num_overlapped_; }
  int64_t num_looked_up() const { return num_looked_up_; }

 private:
  Executor& inner_;
  const int max_in_flight_;
  int num_in_flight_ = 0;
  int64_t num_overlapped_ = 0;  // steps launched while another was in flight
  int64_t num_looked_up_ = 0;   // rows of tokens that were named by their slot
};

// Prompts of all lengths, penalties, noise, forks, bans, stops and logprobs; more than run at once.
std::vector<Request> MakeRequests() {
  std::vector<Request> requests;
  for (uint32_t i = 0; i < 8; ++i) {
    Request& request = requests.emplace_back();
    request.id = i + 1;
    request.prompt = SomeTokens(static_cast<int>(3 + 17 * i), kFirstToken, kMinTinyVocab, i);
    request.max_tokens = static_cast<int>(6 + i);
    request.sampling.temperature = i % 4 == 3 ? 0.0f : 0.9f;
    request.sampling.seed = 100 + i;
    request.num_logprobs = 2;
    if (i % 2 == 0) {
      request.sampling.repetition_penalty = 1.4f;
      request.sampling.frequency_penalty = 0.3f;
      request.sampling.presence_penalty = 0.2f;
    }
    if (i == 2) request.num_sequences = 2;
    if (i == 4) request.num_prompt_logprobs = 1;
    if (i % 3 == 0) {
      for (TokenId token = 0; token < 100; ++token) request.stop_tokens.push_back(token);
      request.banned_before_min = request.stop_tokens;
      request.min_tokens = 3;
    }
  }
  return requests;
}

// Every token's id and logprobs' bits.
void Describe(const std::vector<TokenEvent>& events, std::vector<std::string>* tokens) {
  const auto append = [](const std::vector<ScoredToken>& logprobs, std::string* text) {
    for (const ScoredToken& scored : logprobs) {
      *text += " " + std::to_string(scored.token) + ":" +
               std::to_string(std::bit_cast<uint32_t>(scored.logprob));
    }
  };
  for (const TokenEvent& event : events) {
    if (event.token < 0) continue;
    std::string& text = tokens->emplace_back(std::to_string(event.token));
    append(event.logprobs, &text);
    for (const auto& prompt : event.prompt_logprobs) append(prompt, &text);
  }
}

using Answers = std::vector<std::vector<std::string>>;  // of each request, its sequences in turn

// Cancels a request, if there is one of this id, once it has had two tokens.
Answers AnswersOf(Executor* executor, const std::vector<Request>& requests,
                  RequestId cancelled = 0) {
  auto engine = *Engine::Start({}, executor);
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (const Request& request : requests) {
    sinks.push_back(std::make_shared<CollectingSink>());
    CHECK(engine->Submit(request, sinks.back()).ok());
  }
  if (cancelled != 0) {
    sinks[cancelled - 1]->AwaitTokens(2);
    engine->Cancel(cancelled);
  }
  engine->Drain(kNoDeadline);
  Answers answers(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    for (int index = 0; index < requests[i].num_sequences; ++index) {
      Describe(sinks[i]->output(index).events, &answers[i]);
    }
  }
  return answers;
}

class StepsInFlightTest : public testing::TestWithParam<BackendCase> {
 protected:
  const std::unique_ptr<ModelRunner> runner_ =
      LoadRunner(MakeTinyModel({.type = DType::kQ4_1,
                                .embedding_type = DType::kQ8_0,
                                .num_layers = 2,
                                .hidden_dim = 96,
                                .num_heads = 2,
                                .num_kv_heads = 1,
                                .head_dim = 64,
                                .ffn_dim = 160,
                                .max_context = 256}),
                 GetParam().make(), {.max_batch_tokens = 64, .max_running = 3, .num_pages = 12});
};

TEST_P(StepsInFlightTest, GiveTheBitsOfOneAtATime) {
  ASSERT_EQ(runner_->limits().max_in_flight, 2);
  const std::vector<Request> requests = MakeRequests();
  WatchedExecutor one(runner_.get(), 1);
  const Answers expected = AnswersOf(&one, requests);
  EXPECT_EQ(one.num_looked_up(), 0);
  WatchedExecutor two(runner_.get(), 2);
  EXPECT_EQ(AnswersOf(&two, requests), expected);
  EXPECT_GT(two.num_overlapped(), 20);
  EXPECT_GT(two.num_looked_up(), 30);
}

// The slot and the pages of a sequence that is cancelled go to others at once.
TEST_P(StepsInFlightTest, ACancelBetweenThemChangesNothingForOthers) {
  const std::vector<Request> requests = MakeRequests();
  WatchedExecutor one(runner_.get(), 1);
  const Answers whole = AnswersOf(&one, requests);
  for (const RequestId cancelled : {1, 2, 6}) {
    SCOPED_TRACE(cancelled);
    WatchedExecutor two(runner_.get(), 2);
    const Answers answers = AnswersOf(&two, requests, cancelled);
    Answers expected = whole;
    const size_t num_had = answers[cancelled - 1].size();
    ASSERT_GE(expected[cancelled - 1].size(), num_had);
    expected[cancelled - 1].resize(num_had);
    EXPECT_EQ(answers, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, StepsInFlightTest, testing::ValuesIn(TestedCases()),
                         [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace tessera
