#include "base/check.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/instr.h"
#include "kernels/cuda/launch.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kVectorBytes = 16;

// One block a row.
__global__ void __launch_bounds__(kThreads) GatherKernel(GatherParams params) {
  const char* from =
      static_cast<const char*>(params.x) + params.rows[blockIdx.x] * params.row_bytes;
  char* to = static_cast<char*>(params.out) + int64_t{blockIdx.x} * params.row_bytes;
  for (int64_t i = threadIdx.x * kVectorBytes; i < params.row_bytes; i += kThreads * kVectorBytes) {
    Store16(to + i, Load16(from + i));
  }
}

}  // namespace

void GatherRows(const GatherParams& params, const Stream& stream) {
  CHECK_EQ(params.row_bytes % kVectorBytes, 0);
  if (params.num_rows == 0) return;
  Launch<GatherKernel>(stream, static_cast<unsigned>(params.num_rows), kThreads, 0, params);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
