#pragma once

#include <span>

#include "kernels/backend.h"

// Masks, bias and penalties: the steps of docs/sampling.md that touch few tokens.

namespace tessera {

bool HasEdits(const SampleRow& row);

// Masked scores become -infinity. REQUIRES: every token id is below scores.size().
void ApplyEdits(const SampleRow& row, std::span<float> scores);

}  // namespace tessera
