#pragma once

#include <span>

#include "kernels/backend.h"

namespace tessera {

// docs/sampling.md read aloud: every step over the whole vocabulary, with a full sort.
void ReferenceSample(std::span<const float> logits, const SampleRow& row, SampleResult* result);

}  // namespace tessera
