#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/step_buffer.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// Backend::Attention: holds the scratch memory, which is allocated with the first call of a shape.
// Owned and used by one thread, with one stream.
class StepAttention {
 public:
  StepAttention(DType type, const DeviceProperties& device) : type_(type), device_(device) {}

  void Run(const AttentionParams& params, StepBuffer* step, const Stream& stream);

  // How often the scratch memory has changed.
  int num_changes() const { return num_changes_; }

 private:
  void Prepare(const KvSpec& spec, const Stream& stream);

  const DType type_;
  const DeviceProperties device_;
  AttentionWorkspaceLimits limits_;
  DeviceMemory workspace_;
  int num_changes_ = 0;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
