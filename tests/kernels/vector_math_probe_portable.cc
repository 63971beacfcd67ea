#include "tests/kernels/vector_math_probe_impl.h"

namespace tessera {

const VectorMathProbe kVectorMathPortable = kProbe;

}  // namespace tessera
