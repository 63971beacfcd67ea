#include "kernels/cuda/attention_launch.cuh"

namespace tessera::TESSERA_CUDA_NAMESPACE {

template void LaunchAttentionKernels<Bf16, 256>(const Stream&, const AttentionKernelParams&,
                                                const AttentionGrid&);
template void LaunchAttentionKernels<Fp16, 256>(const Stream&, const AttentionKernelParams&,
                                                const AttentionGrid&);

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
