#include "kernels/cpu/rope_store_kv_kernel_impl.h"

namespace tessera {

const RopeStoreKvKernel kRopeStoreKvAvx512 = kKernel;

}  // namespace tessera
