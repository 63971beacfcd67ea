#pragma once

#include <cstddef>
#include <cstdint>

// Between CpuRopeStoreKv and the files compiled for one instruction set each. Plain data only.

namespace tessera {

// As in RopeStoreKvParams.
struct RopeStoreKvCall {
  float* qkv;
  std::byte* pages;
  int64_t page_bytes;
  const float* rope_cos;
  const float* rope_sin;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int rope_dim;
};

struct RopeStoreKvKernel {
  // Heads [first_head, end_head) of a row, counted through q, k and v. Returns true if a k or v of
  // theirs was not finite.
  bool (*run)(const RopeStoreKvCall& call, int64_t row, int64_t position, int32_t page_id,
              int first_head, int end_head);
};

extern const RopeStoreKvKernel kRopeStoreKvPortable;
extern const RopeStoreKvKernel kRopeStoreKvAvx2;
extern const RopeStoreKvKernel kRopeStoreKvAvx512;

}  // namespace tessera
