#pragma once

#include <cstddef>

#include "base/worker_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/rope_store_kv_kernel.h"

namespace tessera {

// Rotates queries and keys and stores keys and values. Workers share the heads of all rows. Owned
// and called by one thread.
class CpuRopeStoreKv {
 public:
  // REQUIRES: pool outlives this; the machine supports isa.
  CpuRopeStoreKv(WorkerPool* pool, CpuIsa isa);

  void Run(const RopeStoreKvParams& params);

 private:
  WorkerPool* const pool_;
  const RopeStoreKvKernel& kernel_;
};

// Bytes of one layer's page, a multiple of 64 (kernels/cpu/kv_page.h).
size_t CpuKvPageBytes(const KvSpec& spec);

// Backend::CopyPage.
void CpuCopyPage(const KvSpec& spec, std::byte* pages, int32_t from, int32_t to, int num_tokens);

}  // namespace tessera
