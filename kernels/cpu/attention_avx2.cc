#include "kernels/cpu/attention_kernel_impl.h"

namespace tessera {

const AttentionKernel kAttentionAvx2 = kKernel;

}  // namespace tessera
