#pragma once

#include <cstdint>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/instr.h"
#include "kernels/cuda/kv_page.h"

// The shapes that the parts of the attention kernel share (attention_kernel.cuh).
//
// A tile of keys is one page, 64 tokens, whatever the item's number of rows; both products are
// mma.m16n8k16, ascending over the head dimension and over the keys. So no bit of a row depends on
// which kind of item computed it.

namespace tessera::TESSERA_CUDA_NAMESPACE {

inline constexpr int kAttentionThreads = 128;
inline constexpr int kAttentionWarps = kAttentionThreads / 32;
inline constexpr int kNarrowRows = 16;
inline constexpr int kMaxTileRows = 128;
inline constexpr int kPagesPerSplit = kAttentionSplitTokens / kPageTokens;
inline constexpr float kMinusInfinity = -__builtin_inff();

// For head dimension D: the tallest tile, the buffers of keys and values in flight, and how many
// blocks share an SM. The accumulators of a tile of 128 rows take D registers a thread and its
// scores 64: at D = 128 that leaves room for two blocks, beyond it a tile has 64 rows. 96 KiB of
// shared memory a block leave room for two blocks on Hopper, 80 KiB on sm_80 too.
template <int D>
struct AttentionTile {
  static_assert(D % 16 == 0 && D <= 256);
  static constexpr int kWideRows = D <= 128 ? 128 : 64;
  static constexpr int kBlocksPerSm = 2;
  static constexpr int kStages = D == 64 || D == 80 || D == 96 ? 4 : D <= 192 ? 3 : 2;
  static constexpr int kKeyTileBytes = kPageTokens * D * 2;
  static constexpr int kQueryBytes = kWideRows * D * 2;
  static constexpr int kSharedBytes = kQueryBytes + kStages * kKeyTileBytes;

  // A narrow item's 16 queries, its scores (kScorePitch floats a row, so that rows g and g + 4 of a
  // fragment meet in no bank), and buffers in all of the rest.
  static constexpr int kScorePitch = kPageTokens + 8;
  static constexpr int kScoreOffset = kNarrowRows * D * 2;
  static constexpr int kNarrowRingOffset =
      (kScoreOffset + kNarrowRows * kScorePitch * 4 + 127) / 128 * 128;
  static constexpr int kNarrowStages = (kSharedBytes - kNarrowRingOffset) / kKeyTileBytes;
  static_assert(kStages >= 2 && kNarrowStages >= 2);

  // Of fp32 scratch for each block: accumulators of the tallest tile, a maximum and a sum for each
  // of a thread's rows, by thread.
  static constexpr int kScratchFloats = kWideRows * D + kWideRows / 64 * 4 * kAttentionThreads;
};

// Keeps the loop that follows as it is.
#ifdef __CUDACC__
#define TESSERA_NO_UNROLL _Pragma("unroll 1")
#else
#define TESSERA_NO_UNROLL
#endif

// This thread's number. What derives from it cannot be carried through a loop around the call: that
// would take the registers that accumulators need, and computing it anew is cheap.
__device__ __forceinline__ int FreshThread() {
  int thread = static_cast<int>(threadIdx.x);
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(thread));
#endif
  return thread;
}

// Everything of one launch. Pointers are device memory.
struct AttentionKernelParams {
  const void* q;
  int64_t q_stride;
  void* out;
  float* lse;  // may be null
  const void* pages;
  const int32_t* page_ids;
  const AttentionPlanHeader* plan;
  uint32_t* counters;  // [2], zero between launches: items handed out after the first round, blocks
                       // that ended
  float* scratch;      // [blocks][kScratchFloats]
  float2* partial_stats;  // [num_kv_heads][num_partial_rows]: maximum (times scale_log2), sum
  float* partial_out;     // [num_kv_heads][num_partial_rows][D], not normalised
  int num_heads;
  int num_kv_heads;
  int group;
  float scale_log2;     // of what enters the softmax, to the exp2 domain
  float softcap_scale;  // scores become tanh(score * softcap_scale); 0: they stay
  int window;           // a key is visible iff it is less than window before the query,
  int look_ahead;       // and less than look_ahead after it
};

// Packed rows of one sequence and KV head.
struct AttentionRows {
  AttentionSequence sequence;
  int kv_head;
  int first_row;
  int num_rows;

  __device__ int Position(int row, int group) const {
    return sequence.first_position + (first_row + row) / group;
  }
  // The index of a row's query and output among [num_rows of the step][num_heads].
  __device__ int64_t OutputRow(int row, int group, int num_heads) const {
    const int packed = first_row + row;
    const int position = packed / group;
    return int64_t{sequence.query_start + position} * num_heads + kv_head * group +
           (packed - position * group);
  }
};

// Pages of which some row of an item may see a key, and those of which all rows see all keys.
struct PageRange {
  int begin;
  int end;
  int unmasked_begin;
  int unmasked_end;

  __device__ bool NeedsMask(int page) const {
    return page < unmasked_begin || page >= unmasked_end;
  }
};

__device__ inline PageRange VisiblePages(const AttentionKernelParams& params,
                                         const AttentionRows& rows, int split) {
  const int first = rows.Position(0, params.group);
  const int last = rows.Position(rows.num_rows - 1, params.group);
  const int end_key = min(rows.sequence.kv_length, last + params.look_ahead);
  PageRange pages;
  pages.begin = max(0, first - params.window + 1) / kPageTokens;
  pages.end = (max(0, end_key) + kPageTokens - 1) / kPageTokens;
  if (split != AttentionItem::kAllSplits) {
    pages.begin = max(pages.begin, split * kPagesPerSplit);
    pages.end = min(pages.end, (split + 1) * kPagesPerSplit);
  }
  pages.unmasked_begin = (max(0, last - params.window + 1) + kPageTokens - 1) / kPageTokens;
  pages.unmasked_end =
      max(0, min(rows.sequence.kv_length, first + params.look_ahead)) / kPageTokens;
  return pages;
}

// What a block works on, in shared memory: registers are for accumulators.
struct BlockItem {
  AttentionRows rows;
  PageRange pages;
  const int32_t* page_ids;
  const void* head;  // the KV head's keys in page 0
  bool is_first;     // the block has had no item yet
  int tile_rows;     // 0: there is no more work
  int split;
  int partial_row;
  int positions[kMaxTileRows];  // of rows; past the item's last row, of that one

  __device__ bool merges_splits() const { return split == AttentionItem::kAllSplits; }
};

// Where the 16-byte chunk `chunk` of a row of D elements stands in a tile of kRows rows, in bytes.
// Columns are cut into blocks of 64 (and a last one of 32 or 16); inside a block the chunks of a
// row are permuted by the row's number, so that neither ldmatrix (8 rows, one chunk) nor cp.async
// (one row, all chunks) meets a bank twice.
template <int D, int kRows>
__device__ __forceinline__ int ChunkOffset(int row, int chunk) {
  constexpr int kBlocks = D / 64;
  constexpr int kLastChunks = D % 64 / 8;
  static_assert(kLastChunks == 0 || kLastChunks == 2 || kLastChunks == 4);
  const int block = chunk / 8;
  if (kLastChunks == 0 || block < kBlocks) {
    return (block * kRows + row) * 128 + ((chunk % 8) ^ (row & 7)) * 16;
  }
  constexpr int kShift = kLastChunks == 4 ? 1 : 2;
  const int permuted = (chunk % 8) ^ (row >> kShift & (kLastChunks - 1));
  return kBlocks * kRows * 128 + (row * kLastChunks + permuted) * 16;
}

// ChunkOffset for a lane that goes through a tile in steps known when compiling: of row + row_step,
// a multiple of 8, and chunk + chunk_step, where chunk is 0 or chunk_step even and chunk 0 or 1. An
// exclusive or and an immediate away from one register (two where D has a short last block).
template <int D, int kRows>
class LaneChunk {
 public:
  __device__ __forceinline__ LaneChunk(int row, int chunk)
      : whole_(row * 128 + (chunk ^ (row & 7)) * 16),
        last_((row * kLastChunks + (chunk ^ (row >> kLastShift & (kLastChunks - 1)))) * 16) {}

  __device__ __forceinline__ int Offset(int row_step, int chunk_step) const {
    const int within = chunk_step % 8 * 16;
    if (kLastChunks == 0 || chunk_step / 8 < kBlocks) {
      return (whole_ ^ within) + (chunk_step / 8 * kRows + row_step) * 128;
    }
    return (last_ ^ within) + (kBlocks * 8 * kRows + row_step * kLastChunks) * 16;
  }

 private:
  static constexpr int kBlocks = D / 64;
  static constexpr int kLastChunks = D % 64 / 8;
  static constexpr int kLastShift = kLastChunks == 4 ? 1 : 2;

  int whole_;
  int last_;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
