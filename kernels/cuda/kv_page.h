#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/world.h"

// Where one layer's keys and values stand inside a page, in elements of 16 bits:
//
//   [num_kv_heads][kPageTokens][head_dim] keys, then values in the same shape
//
// so that what attention reads of a page and head is one run of 64 * head_dim elements, a tile.
// Every row of head_dim elements starts at a multiple of 16 bytes. REQUIRES: head_dim is a multiple
// of 8.

namespace tessera::TESSERA_CUDA_NAMESPACE {

struct KvPageLayout {
  int num_kv_heads = 0;
  int head_dim = 0;

  __host__ __device__ explicit KvPageLayout(const KvSpec& spec)
      : num_kv_heads(spec.num_kv_heads), head_dim(spec.head_dim) {}

  __host__ __device__ int64_t HeadElements() const { return int64_t{kPageTokens} * head_dim; }
  // Also the distance from a key to its value.
  __host__ __device__ int64_t KeyElements() const { return num_kv_heads * HeadElements(); }
  __host__ __device__ int64_t PageElements() const { return 2 * KeyElements(); }
  // Of the key of the token in `slot`, position % kPageTokens, of page `page_id`.
  __host__ __device__ int64_t KeyOffset(int64_t page_id, int kv_head, int slot) const {
    return page_id * PageElements() + kv_head * HeadElements() + int64_t{slot} * head_dim;
  }
};

inline size_t KvPageBytes(const KvSpec& spec) {
  return static_cast<size_t>(KvPageLayout(spec).PageElements()) * sizeof(uint16_t);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
