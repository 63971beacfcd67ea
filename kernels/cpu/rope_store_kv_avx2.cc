#include "kernels/cpu/rope_store_kv_kernel_impl.h"

namespace tessera {

const RopeStoreKvKernel kRopeStoreKvAvx2 = kKernel;

}  // namespace tessera
