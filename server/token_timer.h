#pragma once

#include <memory>
#include <vector>

#include "scheduler/engine.h"
#include "server/metrics.h"

namespace tessera {

// Sits between the engine and a request's sink and measures when tokens come, before anything
// merges them. Used by the publisher thread.
class TokenTimer final : public TokenSink {
 public:
  // *metrics outlives the timer.
  TokenTimer(Metrics* metrics, TimeNs arrived, int num_sequences, std::shared_ptr<TokenSink> sink)
      : metrics_(metrics), arrived_(arrived), last_token_(num_sequences), sink_(std::move(sink)) {}

  void OnToken(TokenEvent event) override {
    if (event.token >= 0) Observe(event.at, &last_token_[event.index]);
    sink_->OnToken(std::move(event));
  }

 private:
  void Observe(TimeNs at, TimeNs* last_token) {
    if (*last_token == 0) {
      metrics_->ObserveFirstToken(at - arrived_);
    } else {
      metrics_->ObserveInterToken(at - *last_token);
    }
    *last_token = at;
  }

  Metrics* const metrics_;
  const TimeNs arrived_;
  std::vector<TimeNs> last_token_;  // [num_sequences]; 0: none yet
  const std::shared_ptr<TokenSink> sink_;
};

}  // namespace tessera
