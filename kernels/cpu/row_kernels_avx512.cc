#include "kernels/cpu/row_kernels_impl.h"

namespace tessera {

const RowKernels kRowKernelsAvx512 = {RmsNormRows, AddRmsNormRows, SwiGluRows};

}  // namespace tessera
