#include "tests/kernels/vector_math_probe_impl.h"

namespace tessera {

const VectorMathProbe kVectorMathAvx2 = kProbe;

}  // namespace tessera
