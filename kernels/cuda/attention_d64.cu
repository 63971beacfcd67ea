#include "kernels/cuda/attention_launch.cuh"

namespace tessera::TESSERA_CUDA_NAMESPACE {

template void LaunchAttentionKernels<Bf16, 64>(const Stream&, const AttentionKernelParams&,
                                               const AttentionGrid&);
#ifdef TESSERA_CUDA_ALL_KERNELS
template void LaunchAttentionKernels<Fp16, 64>(const Stream&, const AttentionKernelParams&,
                                               const AttentionGrid&);
#endif

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
