#pragma once

#include <cstdint>
#include <span>

#include "base/sampling_params.h"

// What one step of the model reads and returns: plain host data between scheduler and model.

namespace tessera {

using PageId = int32_t;

// Binds a slot to a sequence: its sampling parameters and the tokens it has so far, for penalties.
// The executor adds each token it samples for the slot by itself. Sent when a sequence gets a slot,
// for the first time or again after a preemption.
struct SlotStart {
  int32_t slot = 0;
  const SamplingParams* params = nullptr;  // outlives the sequence's use of the slot
  std::span<const TokenId> tokens;         // prompt, then output
  int32_t prompt_length = 0;
};

// Copies the first num_tokens tokens of a page, in every layer, before the step's rows run: a
// prefix reused up to the middle of a page, or a fork's last page.
struct PageCopy {
  PageId from = 0;
  PageId to = 0;
  int32_t num_tokens = 0;
};

// A row whose logits are wanted. In row order. One with a draft counts only if the sample before it
// chose that very token; else its result, and so that of every draft after it, is kRejected.
struct SampleRequest {
  int32_t row = 0;
  int32_t slot = 0;
  int32_t position = 0;             // of the token to choose: the row's own position + 1
  TokenId forced = -1;              // >= 0: score this prompt token instead of choosing
  TokenId draft = -1;               // >= 0: the row's own token, a guess at what comes before
  std::span<const TokenId> banned;  // before min_tokens: EOS and stop ids
  int16_t num_logprobs = 0;
  bool wants_logprob = false;
};

// One step over a ragged batch. Sequence i owns rows [query_starts[i], query_starts[i + 1]); there
// is no prefill and no decode here: a sequence brings 1..n new tokens, the last of which may be
// drafts, and attends to everything before. Its last token may also be LastTokenOf its slot, which
// the step before chooses, still in flight and without drafts (if it chose none: some token or
// other, for a row in vain). A forked sequence (n > 1) whose parent's last row it
// needs simply appears in `samples` with that row and its own slot. Owned by the StepBuilder until
// its next Build.
struct StepInput {
  std::span<const TokenId> tokens;        // [num_rows], ids or LastTokenOf
  std::span<const int32_t> query_starts;  // [num_sequences + 1]
  std::span<const int32_t> kv_lengths;    // [num_sequences], this step's rows included
  std::span<const int32_t> page_starts;   // [num_sequences + 1]
  std::span<const PageId> page_ids;       // [page_starts.back()]

  std::span<const SlotStart> slot_starts;
  std::span<const PageCopy> page_copies;
  std::span<const SampleRequest> samples;
};

enum class TokenStatus : uint8_t { kOk, kNonFiniteLogits, kNoTokenLeft, kRejected };

struct ScoredToken {
  TokenId token = 0;
  float logprob = 0.0f;
};

struct SampledToken {
  TokenId token = -1;
  TokenStatus status = TokenStatus::kOk;
  // Top entries in descending order, then the chosen token if it is not among them; empty unless
  // wanted.
  std::span<const ScoredToken> logprobs;
};

// Valid until the next Launch or Wait.
struct StepResult {
  std::span<const SampledToken> tokens;  // [samples.size()]
};

}  // namespace tessera
