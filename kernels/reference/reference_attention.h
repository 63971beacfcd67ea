#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

// The reference backend's KV cache and attention. A page is fp16 keys [64][num_kv_heads][head_dim],
// then values in the same shape.

namespace tessera {

size_t ReferenceKvPageBytes(const KvSpec& spec);
void ReferenceRopeStoreKv(const RopeStoreKvParams& params);
void ReferenceAttention(const AttentionParams& params);
void ReferenceCopyPage(const KvSpec& spec, std::byte* pages, int32_t from, int32_t to,
                       int num_tokens);

}  // namespace tessera
