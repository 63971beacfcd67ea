#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/world.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// One step's rows and sequences (StepRows, SequenceBatch) in device memory, as kernels read them:
// passed to them by value. Owns nothing; what it points to is uploaded once a step.
//
// A step may have padding rows after the sequences' own, so that a CUDA graph of a fixed number of
// rows serves fewer: row_sequences is -1 there, and nothing is stored for them outside their own
// rows of activations.
struct StepView {
  int num_sequences = 0;
  int num_rows = 0;  // with padding rows
  int num_selected = 0;
  const int32_t* query_starts = nullptr;   // [num_sequences + 1]
  const int32_t* kv_lengths = nullptr;     // [num_sequences]
  const int32_t* page_starts = nullptr;    // [num_sequences + 1]
  const int32_t* page_ids = nullptr;       // [page_starts[num_sequences]]
  const int32_t* row_sequences = nullptr;  // [num_rows]
  const int32_t* row_positions = nullptr;  // [num_rows], 0 in padding rows
  const TokenId* tokens = nullptr;         // [num_rows], 0 in padding rows
  const int32_t* selected = nullptr;       // [num_selected], rows whose logits are wanted
};

// Bytes that PackStep writes for the step.
size_t PackedStepBytes(const StepRows& step, int num_padding_rows = 0);

// Writes the step's arrays to `host` (aligned to 16 bytes), to be copied as they are to `device`;
// returns the view of them there.
StepView PackStep(const StepRows& step, int num_padding_rows, void* host, const void* device);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
