#pragma once

#include <cstddef>

#include "kernels/backend.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/step_view.h"
#include "kernels/cuda/upload_buffer.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// A step's rows and its attention's plan in device memory, brought there by one copy. The plan's
// header comes first, then the rows, then the plan's items: so all addresses that kernels are given
// stay from step to step, save where the memory grows or the rows' view changes (PackStep). Owned
// and used by one thread, with one stream.
class StepBuffer {
 public:
  explicit StepBuffer(const Stream* stream) : buffer_(stream) {}

  // Copies what `step` refers to. The plan is for the options last asked for.
  void Begin(const StepRows& step, const StepPadding& padding = {});

  const StepRows& rows() const { return rows_; }
  const StepView& view() const { return view_; }

  // The step's plan in device memory. Other options than the last step's cost another copy.
  const AttentionPlanHeader* PlanFor(const AttentionPlanOptions& options);
  const AttentionPlanHeader& plan() const { return plan_.header(); }

  // How often the memory or the options have changed.
  int num_changes() const { return num_changes_; }

 private:
  UploadBuffer buffer_;
  StepRows rows_;
  StepPadding padding_;
  StepView view_;
  AttentionPlan plan_;
  AttentionPlanOptions options_;
  bool has_options_ = false;
  int num_changes_ = 0;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
