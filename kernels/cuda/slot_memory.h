#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/staging.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// What stays of a slot's sequence on the device from step to step: its last token, and the
// different tokens it has seen, 8 bytes each, in no order. The sampler adds to them (KeepToken of
// sample.cu). Takes num_slots * (12 + 8 * max_seen) bytes. Owned and used by one thread.
class SlotMemory {
 public:
  void Reserve(int num_slots, int max_seen);

  // Enqueues the start of a slot's new sequence behind what the stream still does for the old one.
  void Start(int slot, std::span<const TokenCount> seen, Staging* staging, const Stream& stream);

  // All of these are device memory.
  TokenId* last_tokens() const { return reinterpret_cast<TokenId*>(last_tokens_.data()); }
  TokenId* last_token(int slot) const;
  int32_t* num_seen(int slot) const;
  TokenCount* seen(int slot) const;

 private:
  TokenCount* Begin(int slot) const;

  int num_slots_ = 0;
  size_t max_seen_ = 0;
  DeviceMemory last_tokens_;  // [num_slots]
  DeviceMemory seen_;         // [num_slots, 1 + max_seen]: how many, then the tokens
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
