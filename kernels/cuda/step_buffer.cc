#include "kernels/cuda/step_buffer.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr size_t kPlanAlignment = 256;

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

bool IsSame(const AttentionPlanOptions& a, const AttentionPlanOptions& b) {
  return a.group == b.group && a.num_kv_heads == b.num_kv_heads &&
         a.max_tile_rows == b.max_tile_rows && a.num_blocks == b.num_blocks &&
         a.max_partial_rows == b.max_partial_rows && a.causal == b.causal;
}

}  // namespace

void StepBuffer::Begin(const StepRows& step) {
  rows_ = step;
  plan_offset_ = RoundUp(PackedStepBytes(step), kPlanAlignment);
  size_t size_bytes = plan_offset_;
  if (has_options_) {
    plan_.Build(*step.batch, options_);
    size_bytes += plan_.packed_bytes();
  }
  char* host = buffer_.BeginWrite(size_bytes);
  view_ = PackStep(step, 0, host, buffer_.device());
  if (has_options_) plan_.Pack(host + plan_offset_);
  buffer_.Copy();
}

const AttentionPlanHeader* StepBuffer::PlanFor(const AttentionPlanOptions& options) {
  if (!has_options_ || !IsSame(options, options_)) {
    options_ = options;
    has_options_ = true;
    Begin(rows_);
  }
  return reinterpret_cast<const AttentionPlanHeader*>(buffer_.device() + plan_offset_);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
