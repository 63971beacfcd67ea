#include "server/generation_stream.h"

#include <iterator>
#include <utility>

#include "base/check.h"

namespace tessera {
namespace {

using TokenLogprobs = std::vector<ScoredToken>;

int64_t MemoryOf(const TokenLogprobs& entries) {
  return static_cast<int64_t>(sizeof(entries) + entries.size() * sizeof(ScoredToken));
}

int64_t MemoryOf(const std::vector<TokenLogprobs>& tokens) {
  int64_t bytes = 0;
  for (const TokenLogprobs& entries : tokens) bytes += MemoryOf(entries);
  return bytes;
}

template <typename T>
void MoveAppend(std::vector<T>&& from, std::vector<T>* to) {
  to->insert(to->end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

void AppendDelta(Delta&& later, Delta* delta) {
  CHECK_EQ(later.index, delta->index);
  CHECK(delta->finish == FinishReason::kNone) << "a delta after a sequence's last";
  delta->text += later.text;
  MoveAppend(std::move(later.token_ids), &delta->token_ids);
  MoveAppend(std::move(later.logprobs), &delta->logprobs);
  MoveAppend(std::move(later.prompt_logprobs), &delta->prompt_logprobs);
  delta->finish = later.finish;
  delta->stop_string = std::move(later.stop_string);
  delta->stop_token = later.stop_token;
  delta->report = later.report;
}

GenerationStream::GenerationStream(RequestControl* control, const Tokenizer* tokenizer,
                                   RequestId request, int num_sequences, TextOptions options,
                                   std::shared_ptr<DeltaWriter> writer)
    : control_(control),
      tokenizer_(tokenizer),
      request_(request),
      options_(std::move(options)),
      writer_(std::move(writer)),
      num_unfinished_(num_sequences) {
  const auto matcher = std::make_shared<const StopMatcher>(options_.stop_strings);
  sequences_.reserve(num_sequences);
  for (int i = 0; i < num_sequences; ++i) {
    sequences_.emplace_back(matcher);
    sequences_.back().pending.index = i;
  }
}

void GenerationStream::OnToken(TokenEvent event) {
  std::shared_ptr<DeltaWriter> ready;
  {
    MutexLock lock(&mutex_);
    CHECK(event.index >= 0 && event.index < static_cast<int>(sequences_.size())) << event.index;
    Sequence& sequence = sequences_[event.index];
    CHECK(!sequence.finished) << "an event after the finishing one";
    Accept(&event, &sequence);
    if (sequence.has_pending && writer_waits_) {
      writer_waits_ = false;
      ready = writer_;
    }
    ParkIfTooMuch();
  }
  if (ready != nullptr) ready->OnDeltasReady();
}

void GenerationStream::Accept(TokenEvent* event, Sequence* sequence) {
  const bool takes_tokens = !client_gone_ && !sequence->matched_stop;
  if (takes_tokens) AppendToken(event, sequence);
  if (event->finish != FinishReason::kNone) {
    FinishSequence(*event, sequence);
  } else if (takes_tokens && sequence->matched_stop) {
    control_->Finish(request_, event->index);
  }
}

void GenerationStream::AppendToken(TokenEvent* event, Sequence* sequence) {
  Delta& pending = sequence->pending;
  if (!event->prompt_logprobs.empty()) {
    pending_bytes_ += MemoryOf(event->prompt_logprobs);
    pending.prompt_logprobs = std::move(event->prompt_logprobs);
    sequence->has_pending = true;
  }
  if (event->token < 0) return;
  ++sequence->num_tokens;
  pending.token_ids.push_back(event->token);
  pending_bytes_ += static_cast<int64_t>(sizeof(TokenId));
  if (!event->logprobs.empty()) {
    pending_bytes_ += MemoryOf(event->logprobs);
    pending.logprobs.push_back(std::move(event->logprobs));
  }
  sequence->has_pending = true;
  if (HasText(*event)) {
    AppendText(sequence->utf8.Append(tokenizer_->Bytes(event->token)), event->at, sequence);
  }
}

bool GenerationStream::HasText(const TokenEvent& event) const {
  if (event.finish == FinishReason::kStopToken) return false;
  // A model's table may have more rows than its tokenizer has tokens.
  return event.token < tokenizer_->vocab_size() && !tokenizer_->IsSpecial(event.token);
}

void GenerationStream::AppendText(std::string_view text, TimeNs at, Sequence* sequence) {
  std::string& output = sequence->pending.text;
  const size_t size_before = output.size();
  if (sequence->num_tokens <= options_.min_tokens) {
    output.append(text);
  } else {
    sequence->matched_stop = sequence->filter.Append(text, &output);
  }
  if (sequence->matched_stop) {
    sequence->matched_at = at;
    if (options_.include_stop_string) output += options_.stop_strings[*sequence->matched_stop];
  }
  pending_bytes_ += static_cast<int64_t>(output.size() - size_before);
}

void GenerationStream::FinishSequence(const TokenEvent& event, Sequence* sequence) {
  Delta& pending = sequence->pending;
  if (!client_gone_ && !sequence->matched_stop) {
    AppendText(sequence->utf8.Flush(), event.at, sequence);
    if (!sequence->matched_stop) sequence->filter.Flush(&pending.text);
  }
  pending.finish = event.finish;
  pending.report = event.report;
  if (sequence->matched_stop) {
    pending.finish = FinishReason::kStopString;
    pending.stop_string = options_.stop_strings[*sequence->matched_stop];
    pending.report.completion_tokens = sequence->num_tokens;
    pending.report.finished = sequence->matched_at;
  } else if (event.finish == FinishReason::kStopToken) {
    pending.stop_token = event.stop_token;
  }
  sequence->finished = true;
  sequence->has_pending = true;
  --num_unfinished_;
}

std::optional<DeltaBatch> GenerationStream::TakeDeltas() {
  std::shared_ptr<DeltaWriter> released;  // after the lock: it may hold the last reference to this
  MutexLock lock(&mutex_);
  DeltaBatch batch = TakePending();
  taken_bytes_ = std::exchange(pending_bytes_, 0);
  ResumeIfRead();
  if (batch.deltas.empty()) {
    writer_waits_ = true;
    return std::nullopt;
  }
  batch.last = num_unfinished_ == 0;
  if (batch.last) released.swap(writer_);
  return batch;
}

DeltaBatch GenerationStream::TakePending() {
  DeltaBatch batch;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    Sequence& sequence = sequences_[i];
    if (!sequence.has_pending) continue;
    batch.deltas.push_back(std::exchange(sequence.pending, Delta{}));
    sequence.pending.index = static_cast<int>(i);
    sequence.has_pending = false;
  }
  return batch;
}

void GenerationStream::Cancel() {
  MutexLock lock(&mutex_);
  client_gone_ = true;
  for (Sequence& sequence : sequences_) {
    Delta kept;
    kept.index = sequence.pending.index;
    kept.finish = sequence.pending.finish;
    kept.report = sequence.pending.report;
    kept.stop_string = std::move(sequence.pending.stop_string);
    kept.stop_token = sequence.pending.stop_token;
    sequence.pending = std::move(kept);
    sequence.has_pending = sequence.pending.finish != FinishReason::kNone;
  }
  pending_bytes_ = 0;
  control_->Cancel(request_);
}

// Park and Resume are sent under the lock: sent outside it, a Resume decided later could reach the
// engine before the Park it undoes, and the request would never go on.
void GenerationStream::ParkIfTooMuch() {
  if (parked_ || pending_bytes_ + taken_bytes_ <= kParkBytes) return;
  parked_ = true;
  for (const Sequence& sequence : sequences_) {
    if (!sequence.finished) control_->Park(request_, sequence.pending.index);
  }
}

void GenerationStream::ResumeIfRead() {
  if (!parked_ || pending_bytes_ + taken_bytes_ >= kResumeBytes) return;
  parked_ = false;
  for (const Sequence& sequence : sequences_) {
    if (!sequence.finished) control_->Resume(request_, sequence.pending.index);
  }
}

}  // namespace tessera
