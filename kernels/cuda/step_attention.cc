#include "kernels/cuda/step_attention.h"

#include <algorithm>

#include "base/check.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

// For results of splits that are merged later; what finds no room is computed split after split.
constexpr size_t kMaxPartialBytes = size_t{64} << 20;

AttentionWorkspaceLimits LimitsFor(const KvSpec& spec, const DeviceProperties& device) {
  // An output row, its maximum and its sum.
  const size_t row_bytes = static_cast<size_t>(spec.num_kv_heads) *
                           static_cast<size_t>(spec.head_dim + 2) * sizeof(float);
  return {.head_dim = spec.head_dim,
          .num_kv_heads = spec.num_kv_heads,
          .num_blocks = AttentionNumBlocks(spec.head_dim, device),
          .max_partial_rows = static_cast<int>(kMaxPartialBytes / row_bytes)};
}

}  // namespace

void StepAttention::Prepare(const KvSpec& spec, const Stream& stream) {
  if (spec.head_dim == limits_.head_dim && spec.num_kv_heads == limits_.num_kv_heads) return;
  CHECK(AttentionSupports(type_, spec.head_dim))
      << "this build has no attention for heads of " << spec.head_dim << " in " << Name(type_);
  limits_ = LimitsFor(spec, device_);
  ++num_changes_;
  stream.Synchronize();  // the old memory's readers
  workspace_ = DeviceMemory(AttentionWorkspaceBytes(limits_));
  FillAsync(workspace_.data(), 0, workspace_.size_bytes(), stream);
}

void StepAttention::Run(const AttentionParams& params, StepBuffer* step, const Stream& stream) {
  Prepare(params.spec, stream);
  const AttentionPlanHeader* plan =
      step->PlanFor({.group = params.num_heads / params.spec.num_kv_heads,
                     .num_kv_heads = params.spec.num_kv_heads,
                     .max_tile_rows = AttentionMaxTileRows(params.spec.head_dim),
                     .num_blocks = limits_.num_blocks,
                     .max_partial_rows = limits_.max_partial_rows,
                     .causal = params.causal});
  LaunchAttention(stream, {.type = type_,
                           .q = params.q,
                           .q_stride = params.q_stride,
                           .out = params.out,
                           .num_heads = params.num_heads,
                           .spec = params.spec,
                           .pages = params.pages,
                           .scale = params.scale,
                           .softcap = params.softcap,
                           .window = params.window,
                           .causal = params.causal,
                           .step = step->view(),
                           .plan = plan,
                           .combines = step->plan().num_combines > 0,
                           .workspace = workspace_.data(),
                           .limits = limits_});
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
