#include "kernels/cuda/step_buffer.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

// Of the step's rows, behind the plan's header.
constexpr size_t kRowsOffset = 256;
static_assert(sizeof(AttentionPlanHeader) <= kRowsOffset);

}  // namespace

void StepBuffer::Begin(const StepRows& step, const StepPadding& padding) {
  rows_ = step;
  padding_ = padding;
  const size_t items_offset = kRowsOffset + PackedStepBytes(step, padding);
  size_t size_bytes = items_offset;
  if (has_options_) {
    plan_.Build(*step.batch, options_);
    size_bytes += plan_.items_bytes();
  }
  const char* old_memory = buffer_.device();
  char* host = buffer_.BeginWrite(size_bytes);
  if (buffer_.device() != old_memory) ++num_changes_;
  view_ = PackStep(step, padding, host + kRowsOffset, buffer_.device() + kRowsOffset);
  if (has_options_) plan_.Pack(items_offset, host);
  buffer_.Copy();
}

const AttentionPlanHeader* StepBuffer::PlanFor(const AttentionPlanOptions& options) {
  if (!has_options_ || options != options_) {
    options_ = options;
    has_options_ = true;
    ++num_changes_;
    Begin(rows_, padding_);
  }
  return reinterpret_cast<const AttentionPlanHeader*>(buffer_.device());
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
