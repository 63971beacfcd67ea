#pragma once

#include "kernels/cpu/vector_math.h"
#include "tests/kernels/vector_math_probe.h"

namespace tessera {
namespace {

#define VECTOR_PROBE_(name, expression)                   \
  void name(const float* in, float* out, int64_t count) { \
    for (int64_t i = 0; i < count; i += 16) {             \
      const F32x16 x = Load(in + i);                      \
      Store(out + i, expression);                         \
    }                                                     \
  }
VECTOR_PROBE_(ProbeExp2, Exp2(x))
VECTOR_PROBE_(ProbeExp, Exp(x))
VECTOR_PROBE_(ProbeLog, Log(x))
VECTOR_PROBE_(ProbeSigmoid, Sigmoid(x))
VECTOR_PROBE_(ProbeTanh, Tanh(x))
VECTOR_PROBE_(ProbeSqrt, Sqrt(x))
#undef VECTOR_PROBE_

void ProbeScalarExp2(const float* in, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = Exp2(in[i]);
}
void ProbeScalarLog(const float* in, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = Log(in[i]);
}
float ProbeReduceAdd(const float* lanes) { return ReduceAdd(Load(lanes)); }
float ProbeReduceMax(const float* lanes) { return ReduceMax(Load(lanes)); }
void ProbeFma(const float* a, const float* b, const float* c, float* out) {
  Store(out, Fma(Load(a), Load(b), Load(c)));
}
void ProbeMinMax(const float* a, const float* b, float* min, float* max) {
  Store(min, Min(Load(a), Load(b)));
  Store(max, Max(Load(a), Load(b)));
}
uint32_t ProbeLess(const float* a, const float* b) { return MaskBits(Less(Load(a), Load(b))); }
uint32_t ProbeFinite(const float* a) { return MaskBits(IsFinite(Load(a))); }
void ProbeCopyFirst(const float* in, float* out, int count) {
  StoreFirst(out, LoadFirst(in, count), count);
}
void ProbeToHalf(const float* in, uint16_t* out) { StoreHalfFinite(out, Load(in)); }
void ProbeFromHalf(const uint16_t* in, float* out) { Store(out, LoadHalf(in)); }

constexpr VectorMathProbe kProbe = {
    ProbeExp2,       ProbeExp,       ProbeLog,       ProbeSigmoid,   ProbeTanh,    ProbeSqrt,
    ProbeScalarExp2, ProbeScalarLog, ProbeReduceAdd, ProbeReduceMax, ProbeFma,     ProbeMinMax,
    ProbeLess,       ProbeFinite,    ProbeCopyFirst, ProbeToHalf,    ProbeFromHalf};

}  // namespace
}  // namespace tessera
