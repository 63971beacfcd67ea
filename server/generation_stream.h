#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "model/tokenizer.h"
#include "model/utf8.h"
#include "scheduler/engine.h"
#include "server/stop_matcher.h"

namespace tessera {

// What a protocol needs to know of a generation besides its tokens.
struct TextOptions {
  std::vector<std::string> stop_strings;  // none empty
  bool include_stop_string = false;
  int min_tokens = 0;  // the text of the first min_tokens tokens is not searched for stop strings
};

// New text and tokens of one sequence. `text` is whole UTF-8 characters.
struct Delta {
  int index = 0;
  std::string text;
  std::vector<TokenId> token_ids;
  std::vector<std::vector<ScoredToken>> logprobs;  // one entry a token where asked for
  // Index 0 only, in one delta: entry p scores prompt token p + 1.
  std::vector<std::vector<ScoredToken>> prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  std::string stop_string;  // with kStopString
  TokenId stop_token = -1;  // with kStopToken
  SequenceReport report;    // valid when finish != kNone
};

// Appends a later delta of the same sequence, as if both had been one.
void AppendDelta(Delta&& later, Delta* delta);

struct DeltaBatch {
  std::vector<Delta> deltas;  // at most one a sequence, ascending index; not empty
  bool last = false;          // every sequence has had its delta with finish != kNone
};

// A protocol's side of a stream: pulls deltas whenever it can write.
class DeltaWriter {
 public:
  virtual ~DeltaWriter() = default;
  // There are deltas to take. Called on the publisher thread, with no lock held: must not block.
  // Called once, and again only after TakeDeltas has returned nothing.
  //
  // So a writer needs no lock and no "write in flight" of its own: OnDeltasReady takes a batch and
  // starts a write; when that is done, it takes the next and writes on, or finds nothing and
  // returns.
  virtual void OnDeltasReady() = 0;
};

// One request's output, free of any protocol: detokenizes, looks for stop strings, merges what the
// reader has not taken yet and parks the request's sequences while that is too much.
//
// What a reader sees in total is a function of the tokens alone; only where one delta ends and the
// next begins depends on timing. A stop string cuts text, token_ids, logprobs and usage at the
// token that completed the match, whatever the engine ran on meanwhile. Special tokens and the stop
// token that ends a sequence bring no text.
//
// Fed by the publisher thread, read by the protocol's threads. Each sequence gets exactly one delta
// with finish != kNone, its last.
class GenerationStream final : public TokenSink {
 public:
  // Bytes not taken yet, or in the batch taken last: it is done with when the next is asked for.
  static constexpr int64_t kParkBytes = int64_t{256} * 1024;  // above this all sequences are parked
  static constexpr int64_t kResumeBytes = kParkBytes / 2;     // below this they go on

  // *control and *tokenizer outlive the stream. To be submitted to the engine as the sink of
  // `request`, or in a sink of its own. The writer is released when the last batch has been taken,
  // so that it may hold the stream; if the engine refuses, it must drop it.
  GenerationStream(RequestControl* control, const Tokenizer* tokenizer, RequestId request,
                   int num_sequences, TextOptions options, std::shared_ptr<DeltaWriter> writer);

  // Everything that came since the last call; nothing: OnDeltasReady will be called when there is.
  // Called by one thread at a time. Nothing after the last batch.
  std::optional<DeltaBatch> TakeDeltas() EXCLUDES_LOCK(mutex_);

  // The client is gone: cancels the request and drops what it will not read. The last batch still
  // comes (with nothing but finishes), so that the writer has one way to end.
  void Cancel() EXCLUDES_LOCK(mutex_);

  void OnToken(TokenEvent event) override EXCLUDES_LOCK(mutex_);

 private:
  // How far one sequence's text has come.
  struct Sequence {
    explicit Sequence(std::shared_ptr<const StopMatcher> matcher) : filter(std::move(matcher)) {}

    Utf8Stream utf8;
    StopFilter filter;
    int num_tokens = 0;               // up to the one that completed a match
    std::optional<int> matched_stop;  // index of the stop string: takes no more tokens
    TimeNs matched_at = 0;
    bool finished = false;
    Delta pending;  // not taken yet
    bool has_pending = false;
  };

  void Accept(TokenEvent* event, Sequence* sequence) REQUIRES_LOCK(mutex_);
  void AppendToken(TokenEvent* event, Sequence* sequence) REQUIRES_LOCK(mutex_);
  void AppendText(std::string_view text, TimeNs at, Sequence* sequence) REQUIRES_LOCK(mutex_);
  void FinishSequence(const TokenEvent& event, Sequence* sequence) REQUIRES_LOCK(mutex_);
  bool HasText(const TokenEvent& event) const;
  DeltaBatch TakePending() REQUIRES_LOCK(mutex_);
  void ParkIfTooMuch() REQUIRES_LOCK(mutex_);
  void ResumeIfRead() REQUIRES_LOCK(mutex_);

  RequestControl* const control_;
  const Tokenizer* const tokenizer_;
  const RequestId request_;
  const TextOptions options_;

  mutable Mutex mutex_;
  std::shared_ptr<DeltaWriter> writer_ GUARDED_BY(mutex_);
  std::vector<Sequence> sequences_ GUARDED_BY(mutex_);
  int num_unfinished_ GUARDED_BY(mutex_);
  // The writer found nothing at its last TakeDeltas, so the next delta must call it.
  bool writer_waits_ GUARDED_BY(mutex_) = true;
  bool client_gone_ GUARDED_BY(mutex_) = false;
  bool parked_ GUARDED_BY(mutex_) = false;
  // Memory of pending deltas, and of the batch that the writer took last and may still be writing.
  int64_t pending_bytes_ GUARDED_BY(mutex_) = 0;
  int64_t taken_bytes_ GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera
