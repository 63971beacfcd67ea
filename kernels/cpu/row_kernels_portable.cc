#include "kernels/cpu/row_kernels_impl.h"

namespace tessera {

const RowKernels kRowKernelsPortable = {RmsNormRows, AddRmsNormRows, SwiGluRows};

}  // namespace tessera
