#include "kernels/cpu/sample_kernels_impl.h"

namespace tessera {

const SampleKernels kSampleKernelsAvx2 = {Scan,    Scale,           Range,     SumMasses, Masses,
                                          Collect, NoiseThresholds, DrawBlock, AddNoise};

}  // namespace tessera
