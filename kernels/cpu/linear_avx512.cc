#include "kernels/cpu/linear_avx512.h"

namespace tessera {

constinit const LinearKernels kLinearAvx512 = MakeTable<Avx512>();

}  // namespace tessera
