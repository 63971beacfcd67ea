#include "server/generation_stream.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/utf8.h"
#include "tests/support/pulling_reader.h"
#include "tests/support/table_tokenizer.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr RequestId kRequest = 7;

// Writes down what a stream asks of the engine.
class RecordingControl final : public RequestControl {
 public:
  bool Cancel(RequestId) override {
    MutexLock lock(&mutex_);
    ++num_cancels_;
    return true;
  }
  void Finish(RequestId, int index) override { Add("finish", index); }
  void Park(RequestId, int index) override { Add("park", index); }
  void Resume(RequestId, int index) override { Add("resume", index); }

  std::vector<std::string> commands() const {
    MutexLock lock(&mutex_);
    return commands_;
  }
  int num_cancels() const {
    MutexLock lock(&mutex_);
    return num_cancels_;
  }

 private:
  void Add(const std::string& what, int index) {
    MutexLock lock(&mutex_);
    commands_.push_back(what + " " + std::to_string(index));
  }

  mutable Mutex mutex_;
  std::vector<std::string> commands_ GUARDED_BY(mutex_);
  int num_cancels_ GUARDED_BY(mutex_) = 0;
};

class CountingWriter final : public DeltaWriter {
 public:
  void OnDeltasReady() override { ++num_calls; }
  int num_calls = 0;
};

// A stream, what surrounds it, and everything a reader has got of it so far.
struct Harness {
  explicit Harness(TextOptions options = {}, int num_sequences = 1)
      : stream(std::make_shared<GenerationStream>(&control, &tokenizer, kRequest, num_sequences,
                                                  std::move(options), writer)) {}

  TokenEvent Event(TokenId token, FinishReason finish = FinishReason::kNone, int index = 0) {
    TokenEvent event;
    event.request = kRequest;
    event.index = index;
    event.token = token;
    event.finish = finish;
    event.at = ++now;
    const int count = num_sent[index] += token >= 0;
    if (finish != FinishReason::kNone) {
      event.report.completion_tokens = count;
      event.report.finished = now;
    }
    if (finish == FinishReason::kStopToken) event.stop_token = token;
    return event;
  }
  void Send(TokenId token, FinishReason finish = FinishReason::kNone, int index = 0) {
    stream->OnToken(Event(token, finish, index));
  }
  // One token for each piece; the sequence goes on.
  void SendPieces(const std::vector<std::string_view>& pieces) {
    for (const std::string_view piece : pieces) Send(tokenizer.Add(std::string(piece)));
  }

  // Takes one batch. False: there was nothing.
  bool Read() {
    std::optional<DeltaBatch> batch = stream->TakeDeltas();
    if (!batch) return false;
    EXPECT_FALSE(last) << "a batch after the last";
    EXPECT_FALSE(batch->deltas.empty());
    last = batch->last;
    for (Delta& delta : batch->deltas) {
      EXPECT_TRUE(IsValidUtf8(delta.text));
      const auto [it, added] = read.try_emplace(delta.index);
      it->second.index = delta.index;
      AppendDelta(std::move(delta), &it->second);
    }
    return true;
  }
  Delta& ReadAll() {
    while (Read()) {
    }
    return read[0];
  }

  RecordingControl control;
  TableTokenizer tokenizer;
  std::shared_ptr<CountingWriter> writer = std::make_shared<CountingWriter>();
  std::map<int, Delta> read;
  std::map<int, int> num_sent;
  bool last = false;
  TimeNs now = 0;
  std::shared_ptr<GenerationStream> stream;  // after what it uses
};

TextOptions Stops(std::vector<std::string> stop_strings) {
  TextOptions options;
  options.stop_strings = std::move(stop_strings);
  return options;
}

std::vector<std::string_view> CutAt(std::string_view text, size_t first, size_t second) {
  return {text.substr(0, first), text.substr(first, second - first), text.substr(second)};
}

TEST(GenerationStreamTest, Utf8CutAtEveryPairOfPlacesStaysWhole) {
  const std::string text = "aé€😀z\U0010FFFF";
  for (size_t first = 0; first <= text.size(); ++first) {
    for (size_t second = first; second <= text.size(); ++second) {
      Harness harness;
      for (const std::string_view piece : CutAt(text, first, second)) {
        harness.SendPieces({piece});
        harness.ReadAll();  // checks that each delta is whole characters
      }
      harness.Send(-1, FinishReason::kLength);
      ASSERT_EQ(harness.ReadAll().text, text) << first << " " << second;
    }
  }
}

TEST(GenerationStreamTest, BrokenUtf8BecomesReplacementCharactersWhereverItIsCut) {
  const std::string bytes = "a\xE2\x82\xFF\xF0\x9F\x98 b\xC3";
  const std::string expected = "a\uFFFD\uFFFD\uFFFD b\uFFFD";
  for (size_t first = 0; first <= bytes.size(); ++first) {
    for (size_t second = first; second <= bytes.size(); ++second) {
      Harness harness;
      harness.SendPieces(CutAt(bytes, first, second));
      harness.Send(-1, FinishReason::kLength);
      ASSERT_EQ(harness.ReadAll().text, expected) << first << " " << second;
    }
  }
}

// The text before the stop string; the tokens up to the one that brings its last byte.
TEST(GenerationStreamTest, StopStringCutAtEveryPairOfPlaces) {
  const std::string text = "ça va\n€nd.tail";
  const std::string stop = "\n€nd.";
  const size_t stop_end = text.find(stop) + stop.size();
  for (size_t first = 0; first <= text.size(); ++first) {
    for (size_t second = first; second <= text.size(); ++second) {
      Harness harness(Stops({"never", stop}));
      const std::vector<std::string_view> pieces = CutAt(text, first, second);
      size_t num_bytes = 0;
      int num_tokens = 0;
      for (const std::string_view piece : pieces) {
        harness.SendPieces({piece});
        harness.ReadAll();
        num_tokens += num_bytes < stop_end;
        num_bytes += piece.size();
      }
      ASSERT_THAT(harness.control.commands(), ElementsAre("finish 0"));
      harness.Send(-1, FinishReason::kStopString);
      const Delta& all = harness.ReadAll();
      ASSERT_EQ(all.text, "ça va") << first << " " << second;
      ASSERT_EQ(all.stop_string, stop);
      ASSERT_EQ(all.finish, FinishReason::kStopString);
      ASSERT_EQ(all.token_ids.size(), num_tokens) << first << " " << second;
      ASSERT_EQ(all.report.completion_tokens, num_tokens);
    }
  }
}

// What the engine does between the match and its taking note of Finish.
TEST(GenerationStreamTest, StopStringCutsTheSameWhateverRanOnMeanwhile) {
  for (int run_on = 0; run_on < 4; ++run_on) {
    for (const FinishReason finish :
         {FinishReason::kStopString, FinishReason::kLength, FinishReason::kStopToken,
          FinishReason::kCancelled, FinishReason::kDeadline, FinishReason::kNonFinite}) {
      Harness harness(Stops({"END"}));
      harness.SendPieces({"one ", "E", "ND two"});
      const TimeNs matched_at = harness.now;
      for (int i = 0; i < run_on; ++i) {
        TokenEvent event = harness.Event('x');
        event.logprobs = {{'x', -1.0f}};
        harness.stream->OnToken(std::move(event));
      }
      harness.Send(finish == FinishReason::kStopToken ? 'y' : -1, finish);
      const Delta& all = harness.ReadAll();
      ASSERT_EQ(all.text, "one ");
      ASSERT_EQ(all.token_ids.size(), 3);
      ASSERT_THAT(all.logprobs, IsEmpty());
      ASSERT_EQ(all.finish, FinishReason::kStopString);
      ASSERT_EQ(all.stop_string, "END");
      ASSERT_EQ(all.stop_token, -1);
      ASSERT_EQ(all.report.completion_tokens, 3);
      ASSERT_EQ(all.report.finished, matched_at);
      ASSERT_THAT(harness.control.commands(), ElementsAre("finish 0"));
    }
  }
}

TEST(GenerationStreamTest, AMatchInTheLastTokenNeedsNoFinishCommand) {
  Harness harness(Stops({"END"}));
  harness.SendPieces({"one EN"});
  harness.Send('D', FinishReason::kLength);
  const Delta& all = harness.ReadAll();
  EXPECT_EQ(all.text, "one ");
  EXPECT_EQ(all.finish, FinishReason::kStopString);
  EXPECT_EQ(all.report.completion_tokens, 2);
  EXPECT_THAT(harness.control.commands(), IsEmpty());
}

TEST(GenerationStreamTest, TheEndLetsGoWhatMightHaveBecomeAStopString) {
  Harness harness(Stops({"END"}));
  harness.SendPieces({"one EN"});
  EXPECT_EQ(harness.ReadAll().text, "one ");
  EXPECT_THAT(harness.read[0].token_ids.size(), 1);
  harness.Send(-1, FinishReason::kLength);
  EXPECT_EQ(harness.ReadAll().text, "one EN");
}

TEST(GenerationStreamTest, KeepsTheStopStringIfAsked) {
  TextOptions options = Stops({"END"});
  options.include_stop_string = true;
  Harness harness(options);
  harness.SendPieces({"one E", "ND two"});
  harness.Send(-1, FinishReason::kStopString);
  EXPECT_EQ(harness.ReadAll().text, "one END");
}

TEST(GenerationStreamTest, SearchesOnlyTextAfterTheFirstMinTokens) {
  TextOptions options = Stops({"END"});
  options.min_tokens = 2;
  Harness harness(options);
  harness.SendPieces({"END", "EN", "D", "END"});
  harness.Send(-1, FinishReason::kStopString);
  const Delta& all = harness.ReadAll();
  EXPECT_EQ(all.text, "ENDEND");
  EXPECT_EQ(all.report.completion_tokens, 4);
  EXPECT_EQ(all.finish, FinishReason::kStopString);
}

TEST(GenerationStreamTest, SpecialAndStopTokensBringIdsButNoText) {
  Harness harness;
  const TokenId special = harness.tokenizer.AddSpecial("<|im_start|>");
  const TokenId beyond_vocabulary = 1'000'000;
  harness.SendPieces({"a"});
  const TokenId a = harness.tokenizer.vocab_size() - 1;
  harness.Send(special);
  harness.Send(beyond_vocabulary);
  harness.Send('b', FinishReason::kStopToken);
  const Delta& all = harness.ReadAll();
  EXPECT_EQ(all.text, "a");
  EXPECT_THAT(all.token_ids, ElementsAre(a, special, beyond_vocabulary, 'b'));
  EXPECT_EQ(all.stop_token, 'b');
  EXPECT_EQ(all.report.completion_tokens, 4);
}

TEST(GenerationStreamTest, PassesLogprobsOnInOrder) {
  Harness harness;
  TokenEvent first = harness.Event('a');
  first.prompt_logprobs = {{{1, -0.5f}}, {{2, -0.25f}}};
  first.logprobs = {{'a', -1.0f}, {'b', -2.0f}};
  harness.stream->OnToken(std::move(first));
  TokenEvent second = harness.Event('c', FinishReason::kLength);
  second.logprobs = {{'c', -3.0f}};
  harness.stream->OnToken(std::move(second));
  const Delta& all = harness.ReadAll();
  ASSERT_EQ(all.prompt_logprobs.size(), 2);
  EXPECT_EQ(all.prompt_logprobs[1][0].token, 2);
  ASSERT_EQ(all.logprobs.size(), 2);
  EXPECT_EQ(all.logprobs[0][1].token, 'b');
  EXPECT_EQ(all.logprobs[1][0].logprob, -3.0f);
}

TEST(GenerationStreamTest, CallsTheWriterOnceUntilItFoundNothing) {
  Harness harness;
  harness.Send('a');
  harness.Send('b');
  EXPECT_EQ(harness.writer->num_calls, 1);
  EXPECT_TRUE(harness.Read());
  harness.Send('c');
  EXPECT_EQ(harness.writer->num_calls, 1) << "it will come back by itself";
  EXPECT_TRUE(harness.Read());
  EXPECT_FALSE(harness.Read());
  harness.Send('d');
  EXPECT_EQ(harness.writer->num_calls, 2);
  EXPECT_EQ(harness.ReadAll().text, "abcd");
}

TEST(GenerationStreamTest, SequencesGoTheirOwnWays) {
  Harness harness(Stops({"END"}), 3);
  harness.Send('a', FinishReason::kNone, 2);
  harness.Send('b', FinishReason::kLength, 0);
  harness.Send(harness.tokenizer.Add("cEND"), FinishReason::kNone, 1);
  harness.ReadAll();
  EXPECT_FALSE(harness.last);
  harness.Send(-1, FinishReason::kStopString, 1);
  harness.Send('d', FinishReason::kStopToken, 2);
  harness.ReadAll();
  EXPECT_TRUE(harness.last);
  EXPECT_EQ(harness.read[0].text, "b");
  EXPECT_EQ(harness.read[1].text, "c");
  EXPECT_EQ(harness.read[2].text, "a");
  EXPECT_EQ(harness.read[0].finish, FinishReason::kLength);
  EXPECT_EQ(harness.read[1].finish, FinishReason::kStopString);
  EXPECT_EQ(harness.read[2].finish, FinishReason::kStopToken);
}

TEST(GenerationStreamTest, ReleasesTheWriterWithTheLastBatch) {
  Harness harness;
  harness.Send('a', FinishReason::kLength);
  EXPECT_EQ(harness.writer.use_count(), 2);
  harness.ReadAll();
  EXPECT_TRUE(harness.last);
  EXPECT_EQ(harness.writer.use_count(), 1);
}

std::vector<ScoredToken> TwentyLogprobs() { return std::vector<ScoredToken>(20); }

TEST(GenerationStreamTest, ParksAllItsSequencesOnceWhileTheReaderIsBehind) {
  Harness harness({}, 3);
  harness.Send('a', FinishReason::kLength, 1);
  int num_tokens = 0;
  while (harness.control.commands().empty()) {
    TokenEvent event = harness.Event('x', FinishReason::kNone, num_tokens++ % 2 * 2);
    event.logprobs = TwentyLogprobs();
    harness.stream->OnToken(std::move(event));
  }
  EXPECT_THAT(harness.control.commands(), ElementsAre("park 0", "park 2"));
  const int64_t token_bytes = 20 * sizeof(ScoredToken) + sizeof(TwentyLogprobs()) + 5;
  EXPECT_NEAR(num_tokens * token_bytes, GenerationStream::kParkBytes, 2 * token_bytes);

  harness.Send('y', FinishReason::kNone, 0);  // was on its way
  EXPECT_EQ(harness.control.commands().size(), 2);
  EXPECT_TRUE(harness.Read());
  EXPECT_EQ(harness.control.commands().size(), 2) << "the batch is still being written";
  EXPECT_FALSE(harness.Read());
  EXPECT_THAT(harness.control.commands(), ElementsAre("park 0", "park 2", "resume 0", "resume 2"));
  EXPECT_EQ(harness.read[0].token_ids.size() + harness.read[2].token_ids.size(), num_tokens + 1);
}

TEST(GenerationStreamTest, ResumesBelowHalf) {
  Harness harness;
  const TokenId big = harness.tokenizer.Add(std::string(100'000, 'x'));
  harness.Send('a');
  EXPECT_TRUE(harness.Read());  // one byte is being written
  for (int i = 0; i < 3; ++i) harness.Send(big);
  EXPECT_THAT(harness.control.commands(), ElementsAre("park 0"));
  EXPECT_TRUE(harness.Read());  // 300,000 bytes are being written
  harness.Send(big);
  EXPECT_TRUE(harness.Read());  // 100,000 bytes are
  EXPECT_THAT(harness.control.commands(), ElementsAre("park 0", "resume 0"));
}

TEST(GenerationStreamTest, CancelDropsWhatNobodyReadsAndStillEndsOnce) {
  Harness harness({}, 2);
  harness.Send('a');
  harness.Send('b', FinishReason::kLength, 1);
  harness.stream->Cancel();
  EXPECT_EQ(harness.control.num_cancels(), 1);
  harness.Send('c');
  harness.Send(-1, FinishReason::kCancelled);
  harness.ReadAll();
  EXPECT_TRUE(harness.last);
  EXPECT_EQ(harness.read[0].text + harness.read[1].text, "");
  EXPECT_THAT(harness.read[0].token_ids, IsEmpty());
  EXPECT_EQ(harness.read[0].finish, FinishReason::kCancelled);
  EXPECT_EQ(harness.read[1].finish, FinishReason::kLength);
}

TEST(GenerationStreamTest, AnotherClientsAbortStillDeliversWhatWasThere) {
  Harness harness(Stops({"END"}));
  harness.SendPieces({"some E"});
  harness.Send(-1, FinishReason::kCancelled);
  const Delta& all = harness.ReadAll();
  EXPECT_EQ(all.text, "some E");
  EXPECT_EQ(all.finish, FinishReason::kCancelled);
}

TEST(GenerationStreamDeathTest, AnEventAfterTheLastIsABug) {
  Harness harness;
  harness.Send('a', FinishReason::kLength);
  EXPECT_DEATH(harness.Send('b'), "after the finishing one");
}

// The same events, read at every possible pace, add up to the same output.
TEST(GenerationStreamTest, ThePaceOfReadingChangesNothing) {
  const auto run = [](uint32_t pace_seed) {
    std::mt19937 events(42);
    std::mt19937 pace(pace_seed);
    TextOptions options = Stops({"abab", "ba€"});
    options.min_tokens = 3;
    Harness harness(options, 3);
    std::vector<TokenId> tokens;
    for (const char* piece : {"a", "b", "ab", "c\xE2", "\x82", "\xAC", "\xF0", "d"}) {
      tokens.push_back(harness.tokenizer.Add(piece));
    }
    for (int i = 0; i < 60; ++i) {
      TokenEvent event =
          harness.Event(tokens[events() % tokens.size()], FinishReason::kNone, i % 3);
      event.logprobs = {{event.token, static_cast<float>(i)}};
      harness.stream->OnToken(std::move(event));
      while (pace() % 3 == 0) harness.Read();
    }
    for (int i = 0; i < 3; ++i) harness.Send('a', FinishReason::kLength, i);
    harness.ReadAll();
    EXPECT_TRUE(harness.last);
    std::string all;
    for (const auto& [index, delta] : harness.read) {
      all += delta.text + "|" + std::to_string(delta.token_ids.size()) + "|" +
             std::to_string(delta.logprobs.size()) + "|" + delta.stop_string + "|" +
             std::to_string(static_cast<int>(delta.finish)) + "\n";
    }
    return all;
  };
  const std::string expected = run(0);
  EXPECT_NE(expected.find("abab"), std::string::npos) << "no stop string matched: " << expected;
  for (uint32_t seed = 1; seed < 500; ++seed) ASSERT_EQ(run(seed), expected) << "seed " << seed;
}

TEST(GenerationStreamTest, NoTokenIsLostBetweenPublisherAndReader) {
  const TableTokenizer tokenizer;
  RecordingControl control;
  for (int round = 0; round < 20; ++round) {
    const auto reader = std::make_shared<PullingReader>();
    const auto stream = std::make_shared<GenerationStream>(&control, &tokenizer, kRequest, 1,
                                                           TextOptions{}, reader);
    std::thread thread([&] { reader->ReadToEnd(stream.get()); });
    std::string expected;
    for (int i = 0; i < 2'000; ++i) {
      TokenEvent event;
      event.token = 'a' + i % 26;
      event.finish = i == 1'999 ? FinishReason::kLength : FinishReason::kNone;
      expected.push_back(static_cast<char>(event.token));
      stream->OnToken(std::move(event));
    }
    thread.join();
    ASSERT_EQ(reader->read[0].text, expected);
  }
}

}  // namespace
}  // namespace tessera
