#include "kernels/cpu/linear_avx512.h"

namespace tessera {
namespace {

struct Avx512Vnni : Avx512 {
  static KERNEL_INLINE Int DotAdd(Int sum, Int w, Int x) { return _mm512_dpwssd_epi32(sum, w, x); }
};

}  // namespace

constinit const LinearKernels kLinearAvx512Vnni = MakeTable<Avx512Vnni>();

}  // namespace tessera
