#pragma once

#include <cstdint>

namespace tessera {

// kernels/cpu/simd.h and vector_math.h as one instruction set compiles them.
struct VectorMathProbe {
  using Unary = void (*)(const float* in, float* out, int64_t count);  // count: a multiple of 16
  Unary exp2, exp, log, sigmoid, tanh, sqrt;
  Unary scalar_exp2, scalar_log;
  float (*reduce_add)(const float* lanes);
  float (*reduce_max)(const float* lanes);
  void (*fma)(const float* a, const float* b, const float* c, float* out);  // 16 lanes
  void (*min_max)(const float* a, const float* b, float* min, float* max);
  uint32_t (*less)(const float* a, const float* b);
  uint32_t (*finite)(const float* a);
  void (*copy_first)(const float* in, float* out, int count);
  void (*to_half)(const float* in, uint16_t* out);
  void (*from_half)(const uint16_t* in, float* out);
};

extern const VectorMathProbe kVectorMathPortable;
extern const VectorMathProbe kVectorMathAvx2;
extern const VectorMathProbe kVectorMathAvx512;

}  // namespace tessera
