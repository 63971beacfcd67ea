#include "model/slot_table.h"

#include <algorithm>

#include "base/check.h"

namespace tessera {
namespace {

bool IsBefore(const TokenCount& count, TokenId token) { return count.token < token; }

}  // namespace

SlotTable::SlotTable(int num_slots, int max_distinct_tokens)
    : max_distinct_tokens_(max_distinct_tokens), slots_(static_cast<size_t>(num_slots)) {}

void SlotTable::Start(const SlotStart& start) {
  CHECK(start.slot >= 0 && start.slot < static_cast<int32_t>(slots_.size()))
      << "slot " << start.slot << " of " << slots_.size();
  Slot& slot = slots_[start.slot];
  slot.params = start.params;
  slot.seen.clear();
  if (!start.params->has_penalties()) return;
  slot.seen.reserve(std::max(start.tokens.size(), static_cast<size_t>(max_distinct_tokens_)));
  for (size_t i = 0; i < start.tokens.size(); ++i) {
    const bool is_output = i >= static_cast<size_t>(start.prompt_length);
    slot.seen.push_back({.token = start.tokens[i], .output_count = is_output ? 1 : 0});
  }
  std::sort(slot.seen.begin(), slot.seen.end(),
            [](const TokenCount& a, const TokenCount& b) { return a.token < b.token; });
  size_t num_distinct = 0;
  for (const TokenCount& count : slot.seen) {
    if (num_distinct > 0 && slot.seen[num_distinct - 1].token == count.token) {
      slot.seen[num_distinct - 1].output_count += count.output_count;
    } else {
      slot.seen[num_distinct++] = count;
    }
  }
  slot.seen.resize(num_distinct);
}

void SlotTable::AddOutput(int32_t slot_index, TokenId token) {
  Slot& slot = slots_[slot_index];
  if (!slot.params->has_penalties()) return;
  const auto found = std::lower_bound(slot.seen.begin(), slot.seen.end(), token, IsBefore);
  if (found != slot.seen.end() && found->token == token) {
    ++found->output_count;
  } else {
    slot.seen.insert(found, {.token = token, .output_count = 1});
  }
}

}  // namespace tessera
