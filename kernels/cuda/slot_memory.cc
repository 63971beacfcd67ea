#include "kernels/cuda/slot_memory.h"

#include <algorithm>

#include "base/check.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

void SlotMemory::Reserve(int num_slots, int max_seen) {
  num_slots_ = num_slots;
  max_seen_ = static_cast<size_t>(max_seen);
  const auto slots = static_cast<size_t>(num_slots);
  last_tokens_ = DeviceMemory(slots * sizeof(TokenId));
  seen_ = DeviceMemory(slots * (1 + max_seen_) * sizeof(TokenCount));
}

void SlotMemory::Start(int slot, std::span<const TokenCount> seen, Staging* staging,
                       const Stream& stream) {
  CHECK_LE(seen.size(), max_seen_) << "different tokens in a slot";
  const size_t size_bytes = (1 + seen.size()) * sizeof(TokenCount);
  auto* host = reinterpret_cast<TokenCount*>(staging->Take(size_bytes));
  host[0] = {.token = static_cast<int32_t>(seen.size()), .output_count = 0};
  std::copy(seen.begin(), seen.end(), host + 1);
  CopyToDeviceAsync(Begin(slot), host, size_bytes, stream);
}

TokenCount* SlotMemory::Begin(int slot) const {
  CHECK(slot >= 0 && slot < num_slots_) << "slot " << slot << " of " << num_slots_;
  return reinterpret_cast<TokenCount*>(seen_.data()) + static_cast<size_t>(slot) * (1 + max_seen_);
}

TokenId* SlotMemory::last_token(int slot) const {
  CHECK(slot >= 0 && slot < num_slots_) << "slot " << slot << " of " << num_slots_;
  return last_tokens() + slot;
}

int32_t* SlotMemory::num_seen(int slot) const { return &Begin(slot)->token; }

TokenCount* SlotMemory::seen(int slot) const { return Begin(slot) + 1; }

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
