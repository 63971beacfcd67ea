#pragma once

#include <map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"
#include "scheduler/engine.h"

namespace tessera {

// Keeps all events of one request and lets a test wait for them. Aborts on an event that follows a
// sequence's finishing event.
class CollectingSink : public TokenSink {
 public:
  struct Output {
    std::vector<TokenId> tokens;
    std::vector<TokenEvent> events;
    FinishReason finish = FinishReason::kNone;
    SequenceReport report;
  };

  void OnToken(TokenEvent event) override EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    Output& output = outputs_[event.index];
    CHECK(output.finish == FinishReason::kNone) << "an event after the finishing one";
    if (event.token >= 0) {
      output.tokens.push_back(event.token);
      ++num_tokens_;
    }
    if (event.finish != FinishReason::kNone) {
      output.finish = event.finish;
      output.report = event.report;
      ++num_finished_;
    }
    output.events.push_back(std::move(event));
    changed_.NotifyAll();
  }

  // Blocks until so many of the request's sequences have finished.
  void AwaitFinished(int num_sequences = 1) EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    while (num_finished_ < num_sequences) changed_.Wait(&mutex_);
  }
  // Blocks until so many tokens have come.
  void AwaitTokens(int num_tokens) EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    while (num_tokens_ < num_tokens) changed_.Wait(&mutex_);
  }

  Output output(int index = 0) EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    return outputs_[index];
  }
  int num_tokens() EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    return num_tokens_;
  }
  int num_finished() EXCLUDES_LOCK(mutex_) {
    MutexLock lock(&mutex_);
    return num_finished_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::map<int, Output> outputs_ GUARDED_BY(mutex_);
  int num_tokens_ GUARDED_BY(mutex_) = 0;
  int num_finished_ GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera
