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
  int num_rows = 0;                        // with padding rows
  int num_selected = 0;                    // with padding
  const int32_t* row_sequences = nullptr;  // [num_rows]
  const int32_t* row_positions = nullptr;  // [num_rows], 0 in padding rows
  const TokenId* tokens = nullptr;         // [num_rows], 0 in padding rows
  const int32_t* selected = nullptr;       // [num_selected], rows whose logits are wanted; then 0
  const int32_t* page_starts = nullptr;    // [number of sequences + 1]
  const int32_t* page_ids = nullptr;       // [page_starts of the last]
};

// How many rows and selected rows to add to a step's own.
struct StepPadding {
  int num_rows = 0;
  int num_selected = 0;
};

// Bytes that PackStep writes for the step.
size_t PackedStepBytes(const StepRows& step, const StepPadding& padding = {});

// Writes the step's arrays to `host` (aligned to 16 bytes), to be copied as they are to `device`;
// returns the view of them there: the same for all steps of as many rows and selected rows, padding
// included. REQUIRES: every sequence has a row.
StepView PackStep(const StepRows& step, const StepPadding& padding, void* host, const void* device);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
