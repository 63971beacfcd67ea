#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "base/worker_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention_kernel.h"

namespace tessera {

// Exact attention of a ragged batch over pages, for prefill chunks and decode rows in one call.
//
// A call's work is cut into blocks of query rows of one sequence and kv head, and the blocks with
// few rows and many keys further at fixed key boundaries. Workers take items, longest first. How
// the work was cut changes no bit. Memory: a constant for each worker, and for blocks cut along
// their keys one softmax part a row and 256 keys. Owned and called by one thread.
class CpuAttention {
 public:
  // REQUIRES: pool outlives this; the machine supports isa.
  CpuAttention(WorkerPool* pool, CpuIsa isa);

  void Run(const AttentionParams& params);

 private:
  struct PlannedItem {
    int64_t cost;
    AttentionItem item;
  };
  struct FreeDeleter {
    void operator()(float* data) const { std::free(data); }
  };
  struct Buffer {
    std::unique_ptr<float[], FreeDeleter> data;  // 64-byte aligned
    int64_t size = 0;
    void Reserve(int64_t num_floats);
  };

  void PlanBlocks(const AttentionCall& call, int num_sequences);
  void AddBlocks(const AttentionCall& call, int sequence, int max_rows);
  void CutBlocks(const AttentionCall& call);
  void ReserveScratch(const AttentionCall& call);

  WorkerPool* const pool_;
  const AttentionKernel& kernel_;

  // Of the call under way; members to keep their memory.
  std::vector<PlannedItem> blocks_;
  std::vector<PlannedItem> items_;
  std::vector<AttentionItem> merges_;  // the blocks that were cut
  int64_t num_part_floats_ = 0;

  Buffer parts_;
  std::vector<Buffer> scratch_;  // one a worker
};

}  // namespace tessera
