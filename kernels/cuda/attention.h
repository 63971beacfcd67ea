#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/step_view.h"
#include "kernels/dtype.h"

// Attention of a ragged batch over one layer's pages (kv_page.h): prompts' and decode rows in one
// launch, divided among blocks by an AttentionPlan. A row's bits depend on its query and its keys
// and values alone, whatever the plan (docs/numerics.md).

namespace tessera::TESSERA_CUDA_NAMESPACE {

// What a launch may ask for: T is kBf16 or kF16, and the kernel was built for the head dimension.
// 64 and 128 in kBf16 always are; TESSERA_CUDA_ALL_KERNELS adds 80, 96, 192, 256 and kF16.
bool AttentionSupports(DType type, int head_dim);

// For AttentionPlanOptions.
int AttentionMaxTileRows(int head_dim);
int AttentionNumBlocks(int head_dim, const DeviceProperties& device);

// Scratch memory for launches of at most this size, one launch at a time. Aligned to 256 bytes and
// zeroed once, before its first launch.
struct AttentionWorkspaceLimits {
  int head_dim = 0;
  int num_kv_heads = 0;
  int num_blocks = 0;
  int max_partial_rows = 0;
};
size_t AttentionWorkspaceBytes(const AttentionWorkspaceLimits& limits);

struct AttentionLaunch {
  DType type = DType::kBf16;
  const void* q = nullptr;  // row r's queries start at element r * q_stride; [num_heads, head_dim]
  int64_t q_stride = 0;     // a multiple of 8
  void* out = nullptr;      // [num_rows, num_heads, head_dim]
  float* lse = nullptr;     // [num_rows, num_heads]: log of the sum of exp(score); may be null
  int num_heads = 0;
  KvSpec spec;
  const void* pages = nullptr;
  float scale = 0.0f;    // > 0
  float softcap = 0.0f;  // 0: off
  int window = 0;        // 0: off
  bool causal = true;    // as the plan's
  StepView step;         // its page ids; all else of it is in the plan
  // AttentionPlan::Pack's bytes, of a plan for num_heads / num_kv_heads query heads a KV head. Read
  // when the launch runs, so that a CUDA graph may find another plan in the same place.
  const AttentionPlanHeader* plan = nullptr;
  bool combines = true;  // whether the plan may hold combines: if not, half the launches
  void* workspace = nullptr;
  AttentionWorkspaceLimits limits;
};

// REQUIRES: AttentionSupports; rows and positions of the step are those the plan was built for.
void LaunchAttention(const Stream& stream, const AttentionLaunch& launch);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
