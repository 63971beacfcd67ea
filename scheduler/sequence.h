#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "scheduler/ngram_index.h"
#include "scheduler/request.h"

namespace tessera {

struct RequestState;

enum class SequenceState : uint8_t {
  kWaiting,   // in the waiting queue; holds neither slot nor pages
  kForking,   // n > 1, before the fork: follows sequence 0, whose prompt it will share
  kRunning,   // holds a slot and pages
  kRetiring,  // has had its last event, but a step in flight still writes to its pages
  kFinished,
};

enum class WaitReason : uint8_t {
  kNone,
  kTokenBudget,   // this step's rows are given out
  kPages,         // too few free KV pages
  kSlots,         // max_running sequences run
  kFairness,      // another tenant is owed service first
  kPriority,      // more urgent requests come first
  kSharedPrefix,  // a running sequence is computing the same prefix
  kSlowReader,    // parked: the client does not read
};

// How far one sequence has come. Owned by its RequestState, changed by the Scheduler alone.
//
// Invariants: committed <= scheduled <= length(); they differ only while a step is in flight.
// pages[i] holds positions [i * page_tokens, (i + 1) * page_tokens) and is written by this sequence
// alone at and after `committed`. A slot and pages are held exactly in kRunning and kRetiring (and
// a slot in kForking once sequence 0 has its own).
struct Sequence {
  RequestState* owner = nullptr;
  int index = 0;
  SequenceState state = SequenceState::kWaiting;
  bool parked = false;
  bool pinned = false;  // preempted max_preemptions times: gives way only to older pinned ones
  int priority = 0;     // the request's, or better once it was overdue

  SamplingParams sampling;      // with this sequence's own seed, from when it has a slot
  std::vector<TokenId> tokens;  // prompt, then output
  std::vector<PageId> pages;
  int32_t slot = -1;
  int num_in_flight = 0;   // steps in flight that have rows of it
  int num_pending = 0;     // tokens that these choose: it has them, but nobody knows which
  bool is_faulty = false;  // a logit was not finite: what it stored is not for others
  int committed = 0;       // tokens whose keys and values are stored
  int scheduled = 0;       // tokens whose keys and values will be, once no step is in flight
  int num_published = 0;   // leading pages that the prefix index knows
  int num_recompute = 0;   // tokens that had been computed when it was last preempted

  // Speculation.
  NgramIndex ngrams;
  TokenId predicted = -1;  // what the tokens so far suggest as the next one; -1: nothing
  float hit_rate = 0.5f;   // of such predictions, the latest ones most

  // Position in the waiting queue.
  Sequence* queue_prev = nullptr;
  Sequence* queue_next = nullptr;
  TimeNs waiting_since = 0;
  int num_bypassed = 0;          // admissions past it while it was blocked
  uint64_t skipped_in_step = 0;  // last step that looked at it and went on
  WaitReason wait_reason = WaitReason::kNone;

  uint64_t planned_in_step = 0;
  int plan_index = 0;  // in that step's plan
  SequenceReport report;

  int num_outputs() const;  // known ones
  int num_slots() const;    // that it takes to run: before the fork, one for each of the request's
  int length() const { return static_cast<int>(tokens.size()) + num_pending; }
  int num_lacking()
      const;  // tokens to store that have no row yet; the longest it may be lacks none
};

// One accepted request and its sequences. Lives until all of them are finished.
struct RequestState {
  Request request;      // its prompt has moved into sequence 0's tokens
  uint64_t ticket = 0;  // order of arrival
  TimeNs arrived = 0;
  int prompt_length = 0;
  int max_length = 0;    // of a sequence, prompt included
  int num_live = 0;      // sequences not yet finished
  bool forked = false;   // or n = 1
  bool started = false;  // has run, even if it waits again
  std::vector<Sequence> sequences;

  int num_scored = 0;  // prompt rows scored so far, for prompt logprobs
  std::vector<std::vector<ScoredToken>> prompt_logprobs;

  int num_rows_to_score() const { return request.num_prompt_logprobs >= 0 ? prompt_length - 1 : 0; }
};

inline int Sequence::num_outputs() const {
  return static_cast<int>(tokens.size()) - owner->prompt_length;
}

// The last token that a sequence may have is never stored.
inline int Sequence::num_lacking() const {
  return std::min(length(), owner->max_length - 1) - scheduled;
}

inline int Sequence::num_slots() const {
  return index == 0 && !owner->forked ? owner->request.num_sequences : 1;
}

}  // namespace tessera
