#include "base/check.h"
#include "kernels/cuda/instr.h"
#include "kernels/cuda/kv_page.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rope_store_kv.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 128;
constexpr int kChunk = 8;  // elements of 16 bytes

struct Chunk {
  float values[kChunk];
};

template <typename T>
__device__ __forceinline__ Chunk LoadChunk(const T* address) {
  const uint4 raw = Load16(address);
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  Chunk chunk;
  TESSERA_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float2 pair = Unpack2<T>(words[i]);
    chunk.values[2 * i] = pair.x;
    chunk.values[2 * i + 1] = pair.y;
  }
  return chunk;
}

template <typename T>
__device__ __forceinline__ void StoreChunk(T* address, const Chunk& chunk) {
  const float* v = chunk.values;
  Store16(address,
          {Pack2<T>(v[0], v[1]), Pack2<T>(v[2], v[3]), Pack2<T>(v[4], v[5]), Pack2<T>(v[6], v[7])});
}

__device__ __forceinline__ Chunk LoadFloats(const float* address) {
  const auto low = *reinterpret_cast<const float4*>(address);
  const auto high = *reinterpret_cast<const float4*>(address + 4);
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

// Makes the chunk storable; returns whether all of it was finite.
template <typename T>
__device__ __forceinline__ bool Saturate(Chunk& chunk) {
  bool finite = true;
  TESSERA_UNROLL
  for (float& value : chunk.values) {
    finite = finite && fabsf(value) < __builtin_inff();
    value = ToFloat(FromFloatFinite<T>(value));
  }
  return finite;
}

// (a, b) turned by the angles whose cosines and sines are given.
__device__ __forceinline__ void Rotate(const Chunk& cosines, const Chunk& sines, Chunk& a,
                                       Chunk& b) {
  TESSERA_UNROLL
  for (int i = 0; i < kChunk; ++i) {
    const float x = a.values[i];
    const float y = b.values[i];
    a.values[i] = FmaRn(x, cosines.values[i], -MulRn(y, sines.values[i]));
    b.values[i] = FmaRn(x, sines.values[i], MulRn(y, cosines.values[i]));
  }
}

__device__ __forceinline__ float SumOfSquares(const Chunk& chunk, float sum) {
  TESSERA_UNROLL
  for (const float value : chunk.values) sum = FmaRn(value, value, sum);
  return sum;
}

__device__ __forceinline__ void Scale(const Chunk& weight, float factor, Chunk& chunk) {
  TESSERA_UNROLL
  for (int i = 0; i < kChunk; ++i) {
    chunk.values[i] = MulRn(MulRn(chunk.values[i], factor), weight.values[i]);
  }
}

// kLanes lanes of a warp, the least power of two with room for head_dim / 16, share a head. Lane j
// has two chunks of it: with R = rope_dim / 16, j < R has the pairs of chunks (j, j + R), which are
// rotated, and j >= R the chunks 2 j and 2 j + 1, which are not.
struct HeadLane {
  int head;  // of queries, then keys, then values
  int low;   // columns of its chunks
  int high;
  bool active;
  bool rotates;
};

template <int kLanes>
__device__ __forceinline__ HeadLane MakeHeadLane(const RopeStoreKvLaunch& launch) {
  const int index = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  const int lane = index % kLanes;
  const int pairs = launch.rope_dim / 16;
  const int num_heads = launch.num_heads + 2 * launch.spec.num_kv_heads;
  const bool rotates = lane < pairs;
  return {.head = index / kLanes,
          .low = (rotates ? lane : 2 * lane) * kChunk,
          .high = (rotates ? lane + pairs : 2 * lane + 1) * kChunk,
          .active = index / kLanes < num_heads && lane < launch.spec.head_dim / 16,
          .rotates = rotates};
}

// Lanes without a chunk take part in the sum of squares with zeros.
template <int kLanes>
__device__ __forceinline__ void NormaliseHead(const float* weight, float epsilon, int head_dim,
                                              const HeadLane& lane, Chunk& low, Chunk& high) {
  float sum = lane.active ? SumOfSquares(high, SumOfSquares(low, 0.0f)) : 0.0f;
  TESSERA_UNROLL
  for (int step = kLanes / 2; step > 0; step /= 2) {
    sum = AddRn(sum, __shfl_xor_sync(0xFFFFFFFFu, sum, step));
  }
  if (weight == nullptr || !lane.active) return;
  const float mean = DivRn(sum, static_cast<float>(head_dim));
  const float factor = DivRn(1.0f, SqrtRn(AddRn(mean, epsilon)));
  Scale(LoadFloats(weight + lane.low), factor, low);
  Scale(LoadFloats(weight + lane.high), factor, high);
}

template <typename T>
__device__ __forceinline__ void StoreToPage(const RopeStoreKvLaunch& launch, int sequence,
                                            int position, const HeadLane& lane, Chunk& low,
                                            Chunk& high) {
  const KvPageLayout layout(launch.spec);
  const int kv_head = (lane.head - launch.num_heads) % launch.spec.num_kv_heads;
  const bool is_value = lane.head >= launch.num_heads + launch.spec.num_kv_heads;
  const StepView& step = launch.step;
  const int page_id = step.page_ids[step.page_starts[sequence] + position / kPageTokens];
  T* token = static_cast<T*>(launch.pages) +
             layout.KeyOffset(page_id, kv_head, position % kPageTokens) +
             (is_value ? layout.KeyElements() : 0);
  const bool low_is_finite = Saturate<T>(low);
  if (!Saturate<T>(high) || !low_is_finite) launch.row_faults[blockIdx.x] = 1;
  StoreChunk(token + lane.low, low);
  StoreChunk(token + lane.high, high);
}

// A block has one row's heads from blockIdx.y * kThreads / kLanes on.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads) RopeStoreKvKernel(RopeStoreKvLaunch launch) {
  const int row = static_cast<int>(blockIdx.x);
  const int head_dim = launch.spec.head_dim;
  const HeadLane lane = MakeHeadLane<kLanes>(launch);
  const int num_heads = launch.num_heads + 2 * launch.spec.num_kv_heads;
  T* head = static_cast<T*>(launch.qkv) + (int64_t{row} * num_heads + lane.head) * head_dim;
  Chunk low = {};
  Chunk high = {};
  if (lane.active) {
    low = LoadChunk(head + lane.low);
    high = LoadChunk(head + lane.high);
  }
  const bool is_query = lane.head < launch.num_heads;
  const bool is_value = lane.head >= launch.num_heads + launch.spec.num_kv_heads;
  if (launch.q_norm != nullptr || launch.k_norm != nullptr) {
    const float* weight = is_query ? launch.q_norm : is_value ? nullptr : launch.k_norm;
    NormaliseHead<kLanes>(weight, launch.norm_epsilon, head_dim, lane, low, high);
  }
  if (!lane.active) return;
  const int position = launch.step.row_positions[row];
  if (lane.rotates && !is_value) {
    const int64_t angle = int64_t{position} * (launch.rope_dim / 2) + lane.low;
    Rotate(LoadFloats(launch.rope_cos + angle), LoadFloats(launch.rope_sin + angle), low, high);
  }
  const int sequence = launch.step.row_sequences[row];
  if (is_query) {
    StoreChunk(head + lane.low, low);
    StoreChunk(head + lane.high, high);
  } else if (sequence >= 0) {
    StoreToPage<T>(launch, sequence, position, lane, low, high);
  }
}

template <typename T, int kLanes>
void LaunchWithLanes(const Stream& stream, const RopeStoreKvLaunch& launch) {
  const int num_lanes = (launch.num_heads + 2 * launch.spec.num_kv_heads) * kLanes;
  const dim3 grid(static_cast<unsigned>(launch.step.num_rows),
                  static_cast<unsigned>((num_lanes + kThreads - 1) / kThreads));
  Launch<RopeStoreKvKernel<T, kLanes>>(stream, grid, dim3(kThreads), 0, launch);
}

template <typename T>
void LaunchTyped(const Stream& stream, const RopeStoreKvLaunch& launch) {
  if (launch.spec.head_dim <= 64) return LaunchWithLanes<T, 4>(stream, launch);
  if (launch.spec.head_dim <= 128) return LaunchWithLanes<T, 8>(stream, launch);
  LaunchWithLanes<T, 16>(stream, launch);
}

// A page's heads, keys then values, are 2 num_kv_heads tiles in a row.
__global__ void __launch_bounds__(kThreads)
    CopyPageKernel(char* to, const char* from, int64_t tile_bytes, int copied_bytes) {
  const int64_t tile = blockIdx.x * tile_bytes;
  for (int offset = static_cast<int>(threadIdx.x) * 16; offset < copied_bytes;
       offset += kThreads * 16) {
    Store16(to + tile + offset, Load16(from + tile + offset));
  }
}

}  // namespace

void LaunchRopeStoreKv(const Stream& stream, const RopeStoreKvLaunch& launch) {
  CHECK_EQ(launch.spec.head_dim % 16, 0);
  CHECK_EQ(launch.rope_dim % 16, 0);
  CHECK(launch.spec.head_dim <= 256 && launch.rope_dim <= launch.spec.head_dim);
  if (launch.step.num_rows == 0) return;
  if (launch.type == DType::kBf16) return LaunchTyped<Bf16>(stream, launch);
  CHECK(launch.type == DType::kF16) << "qkv must be bf16 or f16";
  LaunchTyped<Fp16>(stream, launch);
}

void LaunchCopyPage(const Stream& stream, const KvSpec& spec, void* pages, int32_t from, int32_t to,
                    int num_tokens) {
  CHECK_EQ(spec.head_dim % 8, 0);
  const KvPageLayout layout(spec);
  const int64_t page_bytes = layout.PageElements() * 2;
  auto* bytes = static_cast<char*>(pages);
  Launch<CopyPageKernel>(stream, dim3(static_cast<unsigned>(2 * spec.num_kv_heads)), dim3(kThreads),
                         0, bytes + to * page_bytes, bytes + from * page_bytes,
                         layout.HeadElements() * 2, num_tokens * spec.head_dim * 2);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
