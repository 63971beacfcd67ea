// Streams on a running engine: what a reader gets in total must not depend on anyone's pace.

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/philox.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/engine.h"
#include "server/generation_stream.h"
#include "tests/support/fake_executor.h"
#include "tests/support/pulling_reader.h"
#include "tests/support/table_tokenizer.h"

namespace tessera {
namespace {

// Tokens are bytes, so that most of the text is broken UTF-8 and short stop strings match often.
ExecutorLimits MakeLimits() {
  return {.num_pages = 512,
          .page_tokens = 16,
          .max_batch_tokens = 64,
          .max_running = 8,
          .max_context = 4096,
          .max_samples = 64,
          .vocab_size = 256};
}

Request MakeRequest(RequestId id, int max_tokens, int num_sequences = 1) {
  Request request;
  request.id = id;
  for (int i = 0; i < 5; ++i) request.prompt.push_back(static_cast<TokenId>((id * 37 + i) % 256));
  request.max_tokens = max_tokens;
  request.num_sequences = num_sequences;
  request.sampling.seed = id;
  return request;
}

class NoControl final : public RequestControl {
 public:
  bool Cancel(RequestId) override { return true; }
  void Finish(RequestId, int) override {}
  void Park(RequestId, int) override {}
  void Resume(RequestId, int) override {}
};

// What a reader must get of one sequence: the model, asked alone, through a stream that is never
// parked, never run past a match and read at once.
Delta ExpectedDelta(const FakeModel& model, const Request& request, int index,
                    const TextOptions& options) {
  const TableTokenizer tokenizer;
  NoControl control;
  const auto reader = std::make_shared<PullingReader>();
  GenerationStream stream(&control, &tokenizer, request.id, 1, options, reader);
  SamplingParams params = request.sampling;
  params.seed = ForkSeed(params.seed, index);
  const int prompt_length = static_cast<int>(request.prompt.size());
  std::vector<TokenId> tokens = request.prompt;
  for (int i = 1; i <= request.max_tokens; ++i) {
    FakeModel::Choice choice =
        model.Choose(tokens, prompt_length, params, {}, request.num_logprobs);
    tokens.push_back(choice.token);
    TokenEvent event;
    event.token = choice.token;
    event.logprobs = std::move(choice.logprobs);
    if (i == request.max_tokens) event.finish = FinishReason::kLength;
    event.report.completion_tokens = i;
    stream.OnToken(std::move(event));
  }
  reader->ReadToEnd(&stream);
  return reader->read[0];
}

void ExpectSame(const Delta& actual, const Delta& expected) {
  EXPECT_EQ(actual.text, expected.text);
  EXPECT_EQ(actual.token_ids, expected.token_ids);
  EXPECT_EQ(actual.finish, expected.finish);
  EXPECT_EQ(actual.stop_string, expected.stop_string);
  EXPECT_EQ(actual.report.completion_tokens, expected.report.completion_tokens);
  ASSERT_EQ(actual.logprobs.size(), expected.logprobs.size());
  for (size_t i = 0; i < actual.logprobs.size(); ++i) {
    ASSERT_EQ(actual.logprobs[i].size(), expected.logprobs[i].size());
    for (size_t k = 0; k < actual.logprobs[i].size(); ++k) {
      ASSERT_EQ(actual.logprobs[i][k].token, expected.logprobs[i][k].token);
      ASSERT_EQ(actual.logprobs[i][k].logprob, expected.logprobs[i][k].logprob);
    }
  }
}

struct Client {
  Request request;
  TextOptions options;
  std::shared_ptr<PullingReader> reader = std::make_shared<PullingReader>();
  std::shared_ptr<GenerationStream> stream;
};

struct Harness {
  static constexpr int kMaxLag = 64;  // events, of the publisher

  explicit Harness(const ExecutorLimits& limits = MakeLimits()) : executor(limits) {
    EngineOptions options;
    options.max_undelivered_events = kMaxLag;
    engine = *Engine::Start(options, &executor);
  }
  Client Submit(Request request, TextOptions options = {}) {
    Client client;
    client.request = request;
    client.options = options;
    client.stream = std::make_shared<GenerationStream>(
        engine.get(), &tokenizer, request.id, request.num_sequences, options, client.reader);
    EXPECT_TRUE(engine->Submit(std::move(request), client.stream).ok());
    return client;
  }
  void ExpectWhole(const Client& client) {
    for (int i = 0; i < client.request.num_sequences; ++i) {
      SCOPED_TRACE("request " + std::to_string(client.request.id) + "." + std::to_string(i));
      ExpectSame(client.reader->read[i],
                 ExpectedDelta(*executor.model(), client.request, i, client.options));
    }
  }

  TableTokenizer tokenizer;
  FakeExecutor executor;
  std::unique_ptr<Engine> engine;
};

int64_t BytesOf(const Delta& delta) {
  int64_t bytes = static_cast<int64_t>(delta.text.size());
  for (const auto& entries : delta.logprobs) {
    bytes += static_cast<int64_t>(sizeof(entries) + entries.size() * sizeof(ScoredToken));
  }
  return bytes + static_cast<int64_t>(delta.token_ids.size() * sizeof(TokenId));
}

// 1,600 tokens with 20 logprobs each are 300 KB. Nobody reads them until the others are done.
TEST(EngineStreamTest, AStalledReaderParksItselfAlone) {
  Harness harness;
  Request request = MakeRequest(1, 1'600);
  request.num_logprobs = 20;
  const Client stalled = harness.Submit(request);
  std::vector<Client> others;
  for (RequestId id = 2; id <= 3; ++id) others.push_back(harness.Submit(MakeRequest(id, 1'700)));
  for (const Client& other : others) other.reader->ReadToEnd(other.stream.get());
  for (const Client& other : others) harness.ExpectWhole(other);

  EXPECT_EQ(harness.engine->num_unfinished_requests(), 1);
  ASSERT_TRUE(stalled.reader->ReadOne(stalled.stream.get()));
  const int64_t bytes = BytesOf(stalled.reader->read[0]);
  EXPECT_GT(bytes, GenerationStream::kParkBytes);
  // What was on its way: two batches of events and a step's, of under 200 bytes each.
  EXPECT_LT(bytes, GenerationStream::kParkBytes + 200 * (2 * Harness::kMaxLag + 16));
  stalled.reader->ReadToEnd(stalled.stream.get());
  harness.ExpectWhole(stalled);
}

TEST(EngineStreamTest, AClientThatGoesFreesAParkedSequence) {
  Harness harness;
  Request request = MakeRequest(1, 1'600);
  request.num_logprobs = 20;
  const Client stalled = harness.Submit(request);
  const Client other = harness.Submit(MakeRequest(2, 1'700));
  other.reader->ReadToEnd(other.stream.get());
  ASSERT_EQ(harness.engine->num_unfinished_requests(), 1);
  stalled.stream->Cancel();
  stalled.reader->ReadToEnd(stalled.stream.get());
  EXPECT_EQ(stalled.reader->read[0].finish, FinishReason::kCancelled);
  EXPECT_TRUE(stalled.reader->read[0].text.empty());
  EXPECT_EQ(harness.engine->num_unfinished_requests(), 0);
}

// The engine learns of the match only after it has run on; the reader never does.
TEST(EngineStreamTest, AStopStringEndsTheSequenceAndCutsItsOutput) {
  Harness harness;
  const std::string text = "Once upon a time.\n\nUser: and then";
  harness.executor.model()->next_token = [&](std::span<const TokenId> tokens, int prompt_length) {
    const size_t position = tokens.size() - static_cast<size_t>(prompt_length);
    return static_cast<TokenId>(text[position % text.size()]);
  };
  const Client client =
      harness.Submit(MakeRequest(1, 4'000), {.stop_strings = {"\n\nUser:", "\n\nSystem:"}});
  client.reader->ReadToEnd(client.stream.get());
  const Delta& read = client.reader->read[0];
  EXPECT_EQ(read.text, "Once upon a time.");
  EXPECT_EQ(read.stop_string, "\n\nUser:");
  EXPECT_EQ(read.token_ids.size(), text.find(':') + 1);
  EXPECT_EQ(read.report.completion_tokens, read.token_ids.size());
  EXPECT_EQ(read.finish, FinishReason::kStopString);
  EXPECT_LT(harness.executor.num_steps(), 2'000) << "Finish did not reach the engine";
}

// Readers of every pace, some of whom leave; few pages, so that sequences are preempted, too.
TEST(EngineStreamTest, ManyReadersAtTheirOwnPaceGetWhatTheyWouldAlone) {
  ExecutorLimits limits = MakeLimits();
  limits.num_pages = 60;
  limits.max_context = 512;
  Harness harness(limits);
  std::vector<Client> clients;
  for (RequestId id = 1; id <= 40; ++id) {
    Request request = MakeRequest(id, 150 + static_cast<int>(id), 1 + static_cast<int>(id % 3));
    request.num_logprobs = id % 4 == 0 ? 20 : -1;
    TextOptions options;
    if (id % 2 == 0) options.stop_strings = {"ab", "z", "\uFFFD\uFFFD\uFFFDq"};
    if (id % 4 == 0) options.min_tokens = 60;
    clients.push_back(harness.Submit(std::move(request), std::move(options)));
  }
  std::vector<std::thread> threads;
  for (uint32_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 pace(thread);
      for (size_t i = thread; i < clients.size(); i += 4) {
        GenerationStream* const stream = clients[i].stream.get();
        const bool leaves = i % 10 == 9;
        for (uint32_t batch = 0; batch < pace() % 50; ++batch) {
          clients[i].reader->ReadOne(stream);
        }
        if (leaves) stream->Cancel();
      }
      for (size_t i = thread; i < clients.size(); i += 4) {
        clients[i].reader->ReadToEnd(clients[i].stream.get());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  int num_stopped = 0;
  for (size_t i = 0; i < clients.size(); ++i) {
    for (const auto& [index, delta] : clients[i].reader->read) {
      EXPECT_NE(delta.finish, FinishReason::kNone);
      num_stopped += delta.finish == FinishReason::kStopString;
    }
    if (i % 10 != 9) harness.ExpectWhole(clients[i]);
  }
  EXPECT_GT(num_stopped, 10);
  EXPECT_EQ(harness.engine->num_unfinished_requests(), 0);
}

}  // namespace
}  // namespace tessera
