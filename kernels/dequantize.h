#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dtype.h"

namespace tessera {

float HalfToFloat(uint16_t half);
// Round to nearest even; saturates to +-65504; NaN becomes 0 (docs/numerics.md: stored K and V are
// finite).
uint16_t FloatToHalfFinite(float value);
float Bf16ToFloat(uint16_t bits);

// Writes the values of one row of `num_elements` in `type`. Plain loops, bit for bit what ggml's
// dequantisation gives: the definition that packed layouts and tests are held to.
// REQUIRES: num_elements is a multiple of BlockElements(type).
void DequantizeRow(DType type, const std::byte* row, int64_t num_elements, float* out);

}  // namespace tessera
