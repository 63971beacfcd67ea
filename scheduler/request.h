#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/sampling_params.h"
#include "model/step.h"

namespace tessera {

using RequestId = uint64_t;
using TenantId = uint32_t;  // dense, given out by the server from the authenticated context

// Nanoseconds on the engine's steady clock; the scheduler is told the time and never asks.
using TimeNs = int64_t;
inline constexpr TimeNs kNoDeadline = INT64_MAX;

enum class FinishReason : uint8_t {
  kNone,
  kStopToken,    // EOS or a stop id
  kStopString,   // the server found a stop string and sent Finish
  kLength,       // max_tokens, or the context's or the pool's limit
  kCancelled,    // the client went away or asked for it
  kDeadline,     // the request's deadline passed
  kShutdown,     // the daemon's drain ran out of time: UNAVAILABLE
  kNonFinite,    // INTERNAL: the model's logits were not finite
  kNoTokenLeft,  // masks and biases left no token to choose
};

// What a client asked for, tokenized and validated. It owns n >= 1 sequences, (id, index) each.
// Never changes after Submit; what changes as it runs is the scheduler's.
struct Request {
  RequestId id = 0;
  TenantId tenant = 0;
  int priority = 0;  // lower runs first
  TimeNs deadline = kNoDeadline;
  uint64_t cache_salt = 0;  // prefixes are shared only between equal salts

  std::vector<TokenId> prompt;             // not empty
  std::vector<TokenId> stop_tokens;        // EOS ids too, unless ignore_eos
  std::vector<TokenId> banned_before_min;  // EOS and stop ids: masked until min_tokens are out
  int max_tokens = -1;                     // -1: until the context or the pool is full
  int min_tokens = 0;
  int num_sequences = 1;         // n
  SamplingParams sampling;       // sequence i samples with ForkSeed(sampling.seed, i)
  int num_logprobs = -1;         // -1: none; k: the chosen token's and the top k
  int num_prompt_logprobs = -1;  // likewise for the prompt's tokens
};

// How one sequence fared; complete in its finishing event. Times are 0 where a stage was not
// reached.
struct SequenceReport {
  int prompt_tokens = 0;
  int cached_tokens = 0;      // prompt tokens whose keys and values were found in the prefix cache
  int completion_tokens = 0;  // EOS and stop token included
  int num_preemptions = 0;
  int recomputed_tokens = 0;
  TimeNs arrived = 0;
  TimeNs first_scheduled = 0;
  TimeNs first_token = 0;
  TimeNs finished = 0;
};

// One sequence's news from one step. A sequence gets exactly one event with finish != kNone, its
// last.
struct TokenEvent {
  RequestId request = 0;
  int index = 0;       // which of the request's sequences
  TokenId token = -1;  // -1: the event brings no token
  FinishReason finish = FinishReason::kNone;
  TokenId stop_token = -1;            // with kStopToken: which one
  std::vector<ScoredToken> logprobs;  // of `token`, as SampledToken::logprobs
  // Index 0 only, once, at the latest with the first token: entry p scores prompt token p + 1 (the
  // first has none).
  std::vector<std::vector<ScoredToken>> prompt_logprobs;
  TimeNs at = 0;
  SequenceReport report;  // valid when finish != kNone
};

}  // namespace tessera
