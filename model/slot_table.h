#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "model/step.h"

namespace tessera {

// What each slot's sequence needs for sampling: its parameters and, where these have penalties, how
// often each token has been seen. Used by the runner's thread.
class SlotTable {
 public:
  // max_distinct_tokens: what one sequence can hold at most, so that Add never allocates.
  SlotTable(int num_slots, int max_distinct_tokens);

  // Forgets the slot's former sequence.
  void Start(const SlotStart& start);
  // Counts a token chosen for the slot.
  void AddOutput(int32_t slot, TokenId token);

  const SamplingParams& params(int32_t slot) const { return *slots_[slot].params; }
  // Sorted by token; empty without penalties.
  std::span<const TokenCount> seen(int32_t slot) const { return slots_[slot].seen; }
  bool IsStarted(int32_t slot) const {
    return slot >= 0 && slot < static_cast<int32_t>(slots_.size()) &&
           slots_[slot].params != nullptr;
  }

 private:
  struct Slot {
    const SamplingParams* params = nullptr;  // null: never started
    std::vector<TokenCount> seen;
  };

  const int max_distinct_tokens_;
  std::vector<Slot> slots_;
};

}  // namespace tessera
