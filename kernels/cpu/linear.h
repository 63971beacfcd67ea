#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/worker_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_weight.h"
#include "kernels/cpu/linear_kernels.h"

namespace tessera {

// The matrix products of the CPU backend, by the arithmetic of docs/numerics.md: an output's bits
// depend on its row of x and its row of W alone, not on num_rows, the threads or the instruction
// set.
//
// Owns scratch that grows to a bound set by the widest weight (kMaxBandRows rows of activations)
// and is kept. Owned and called by one thread at a time.
class CpuLinear {
 public:
  // Does not own the pool. REQUIRES: IsSupported(isa).
  CpuLinear(WorkerPool* pool, CpuIsa isa);
  ~CpuLinear();
  CpuLinear(const CpuLinear&) = delete;
  CpuLinear& operator=(const CpuLinear&) = delete;

  // out[r] = the weights' products with x[r], side by side: [num_rows, sum of rows()]. Every weight
  // is a CpuWeight, and all have the same cols. x: [num_rows, cols].
  void Run(const float* x, int64_t num_rows, std::span<const PackedWeight* const> weights,
           float* out);

  // out[r] = row tokens[r] of the table, dequantised. out: [tokens.size(), table.cols()].
  void Embed(const CpuWeight& table, std::span<const TokenId> tokens, float* out);

 private:
  struct Band;
  struct RowRange;
  struct Share;
  struct WorkerScratch;

  // Rows of x as blocks of int16 or, for AMX, bf16 pairs, in tiles (QuantTile) one after the other.
  struct QuantizedRows {
    struct alignas(64) CacheLine {
      int16_t words[32];
    };
    std::vector<CacheLine> q;       // [blocks][block_words]
    std::vector<float> scale;       // [blocks]
    std::vector<float> scaled_sum;  // same

    void Reserve(int64_t num_blocks, int block_words);
    int16_t* words() { return q.data()->words; }
    const int16_t* words() const { return q.data()->words; }
  };

  void RunBand(const Band& band);
  void DealShares(const Band& band);
  void RunWorker(const Band& band, int worker);
  void QuantizeRows(const Band& band, int64_t first_row, int64_t end_row,
                    QuantizedRows* rows) const;
  void MultiplyPanelOf(const Band& band, const RowRange& rows, const QuantizedRows& x,
                       int64_t panel, WorkerScratch* scratch) const;
  void MultiplyPanel(const Band& band, const RowRange& rows, const QuantizedRows& x,
                     const CpuWeight& weight, const uint8_t* panel, WorkerScratch* scratch) const;
  void MultiplyUnpacked(const Band& band, const RowRange& rows, const QuantizedRows& x,
                        const CpuWeight& weight, const uint8_t* panel,
                        WorkerScratch* scratch) const;

  WorkerPool* const pool_;
  const LinearKernels& kernels_;
  const bool has_amx_;         // for bands of many rows
  std::vector<Share> shares_;  // [worker]
  QuantizedRows shared_rows_;  // quantised by all workers together, each some rows
  std::vector<std::unique_ptr<WorkerScratch>> scratch_;  // [worker]
};

}  // namespace tessera
