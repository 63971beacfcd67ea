#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/slot_memory.h"

// The sampler of docs/sampling.md on the device: the CPU's tokens, noise and log-probabilities, bit
// for bit. Sums are of integers; a row's result depends on that row alone.

namespace tessera::TESSERA_CUDA_NAMESPACE {

inline constexpr int kMaxLogprobs = 20;

struct TokenBias {
  TokenId token = 0;
  float bias = 0.0f;
};

// A SampleRow as kernels read it. All pointers are device memory.
struct DeviceSampleRow {
  uint64_t seed = 0;
  int64_t position = 0;
  float temperature = 1.0f;
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  TokenId forced = -1;
  int32_t num_logprobs = 0;  // at most kMaxLogprobs
  bool wants_logprob = false;
  const TokenId* banned = nullptr;  // [num_banned]
  int32_t num_banned = 0;
  int32_t num_biases = 0;
  const TokenBias* biases =
      nullptr;                 // [num_biases], ascending; equal tokens in the request's order
  TokenCount* seen = nullptr;  // [*num_seen], each token once; null: no penalties
  int32_t* num_seen = nullptr;
  // Of the row's slot, to be replaced by what is chosen, which `seen` then counts. Null: no slot.
  TokenId* last_token = nullptr;
  TokenId draft = -1;  // >= 0: nothing is chosen unless it is *last_token
};

struct DeviceSampleResult {
  TokenId token = -1;
  SampleStatus status = SampleStatus::kOk;
  int32_t num_logprobs = 0;
  TokenLogprob logprobs[kMaxLogprobs + 1] = {};  // as SampleResult::logprobs
};

struct SampleParams {
  const float* logits = nullptr;  // [num_rows, vocab_size]
  int64_t vocab_size = 0;
  const DeviceSampleRow* rows = nullptr;  // [num_rows]
  int num_rows = 0;
  void* workspace = nullptr;              // SampleWorkspaceBytes
  DeviceSampleResult* results = nullptr;  // [num_rows]
};

size_t SampleWorkspaceBytes(int num_rows, int64_t vocab_size);

void Sample(const SampleParams& params, const Stream& stream);

// Bytes that PackSampleRows writes for the rows.
size_t PackedSampleRowsBytes(std::span<const SampleRow> rows);

// Writes the rows and all that they point to besides the slots to `host` (aligned to 16 bytes), to
// be copied as it is to `device`; returns the rows there.
const DeviceSampleRow* PackSampleRows(std::span<const SampleRow> rows, const SlotMemory& slots,
                                      void* host, void* device);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
