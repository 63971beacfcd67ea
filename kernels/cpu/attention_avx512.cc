#include "kernels/cpu/attention_kernel_impl.h"

namespace tessera {

const AttentionKernel kAttentionAvx512 = kKernel;

}  // namespace tessera
