#include "kernels/cpu/attention_kernel_impl.h"

namespace tessera {

const AttentionKernel kAttentionPortable = kKernel;

}  // namespace tessera
