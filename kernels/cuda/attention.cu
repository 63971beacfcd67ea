#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_launch.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

namespace {

// The numbers of AttentionTile<D> that the host needs, and the launcher for each type.
struct Variant {
  int head_dim;
  int wide_rows;
  int blocks_per_sm;
  size_t shared_bytes;
  size_t scratch_floats;
  using Launcher = void (*)(const Stream&, const AttentionKernelParams&, const AttentionGrid&);
  Launcher bf16 = nullptr;  // null: not built
  Launcher fp16 = nullptr;
};

template <int D>
constexpr Variant MakeVariant(Variant::Launcher bf16, Variant::Launcher fp16) {
  using Tile = AttentionTile<D>;
  return {D,   Tile::kWideRows, Tile::kBlocksPerSm, Tile::kSharedBytes, Tile::kScratchFloats, bf16,
          fp16};
}

#ifdef TESSERA_CUDA_ALL_KERNELS
template <int D>
constexpr Variant kBothTypes = MakeVariant<D>(LaunchAttentionKernels<Bf16, D>,
                                              LaunchAttentionKernels<Fp16, D>);
constexpr Variant kVariants[] = {kBothTypes<64>,  kBothTypes<80>,  kBothTypes<96>,
                                 kBothTypes<128>, kBothTypes<192>, kBothTypes<256>};
#else
constexpr Variant kVariants[] = {MakeVariant<64>(LaunchAttentionKernels<Bf16, 64>, nullptr),
                                 MakeVariant<128>(LaunchAttentionKernels<Bf16, 128>, nullptr)};
#endif

const Variant* FindVariant(int head_dim) {
  for (const Variant& variant : kVariants) {
    if (variant.head_dim == head_dim) return &variant;
  }
  return nullptr;
}

const Variant& GetVariant(int head_dim) {
  const Variant* variant = FindVariant(head_dim);
  CHECK(variant != nullptr) << "attention of head_dim " << head_dim << " was not built";
  return *variant;
}

size_t Aligned(size_t size_bytes) { return (size_bytes + 255) / 256 * 256; }

// The workspace's parts, one after another, each aligned to 256 bytes.
struct WorkspaceLayout {
  size_t scratch_offset;
  size_t stats_offset;
  size_t partial_offset;
  size_t size_bytes;

  explicit WorkspaceLayout(const AttentionWorkspaceLimits& limits) {
    const auto partials =
        static_cast<size_t>(limits.num_kv_heads) * static_cast<size_t>(limits.max_partial_rows);
    const size_t scratch =
        static_cast<size_t>(limits.num_blocks) * GetVariant(limits.head_dim).scratch_floats;
    scratch_offset = Aligned(2 * sizeof(uint32_t));
    stats_offset = scratch_offset + Aligned(scratch * sizeof(float));
    partial_offset = stats_offset + Aligned(partials * sizeof(float2));
    size_bytes =
        partial_offset + Aligned(partials * static_cast<size_t>(limits.head_dim) * sizeof(float));
  }
};

AttentionKernelParams MakeParams(const AttentionLaunch& launch) {
  constexpr float kLog2E = 1.442695041f;
  constexpr int kUnlimited = 1 << 30;
  const WorkspaceLayout layout(launch.limits);
  auto* workspace = static_cast<char*>(launch.workspace);
  AttentionKernelParams params;
  params.q = launch.q;
  params.q_stride = launch.q_stride;
  params.out = launch.out;
  params.lse = launch.lse;
  params.pages = launch.pages;
  params.page_ids = launch.step.page_ids;
  params.plan = launch.plan;
  params.counters = reinterpret_cast<uint32_t*>(workspace);
  params.scratch = reinterpret_cast<float*>(workspace + layout.scratch_offset);
  params.partial_stats = reinterpret_cast<float2*>(workspace + layout.stats_offset);
  params.partial_out = reinterpret_cast<float*>(workspace + layout.partial_offset);
  params.num_heads = launch.num_heads;
  params.num_kv_heads = launch.spec.num_kv_heads;
  params.group = launch.num_heads / launch.spec.num_kv_heads;
  params.scale_log2 = (launch.softcap > 0 ? launch.softcap : launch.scale) * kLog2E;
  params.softcap_scale = launch.softcap > 0 ? launch.scale / launch.softcap : 0.0f;
  params.window = launch.window > 0 ? launch.window : kUnlimited;
  params.look_ahead = launch.causal ? 1 : kUnlimited;
  return params;
}

void CheckLaunch(const AttentionLaunch& launch) {
  CHECK(AttentionSupports(launch.type, launch.spec.head_dim))
      << "attention of head_dim " << launch.spec.head_dim << " was not built";
  CHECK_EQ(launch.num_heads % launch.spec.num_kv_heads, 0);
  CHECK_EQ(launch.q_stride % 8, 0);
  CHECK_EQ(launch.limits.head_dim, launch.spec.head_dim);
  CHECK_EQ(launch.limits.num_kv_heads, launch.spec.num_kv_heads);
  CHECK_GT(launch.limits.num_blocks, 0);
  CHECK(launch.scale > 0) << "scale is " << launch.scale;
}

}  // namespace

bool AttentionSupports(DType type, int head_dim) {
  const Variant* variant = FindVariant(head_dim);
  if (variant == nullptr) return false;
  if (type == DType::kBf16) return variant->bf16 != nullptr;
  return type == DType::kF16 && variant->fp16 != nullptr;
}

int AttentionMaxTileRows(int head_dim) { return GetVariant(head_dim).wide_rows; }

int AttentionNumBlocks(int head_dim, const DeviceProperties& device) {
  constexpr size_t kReservedBytes = 1024;  // of each block, by the system
  constexpr size_t kStaticBytes = 1024;    // at most
  const Variant& variant = GetVariant(head_dim);
  const size_t block_bytes = variant.shared_bytes + kStaticBytes + kReservedBytes;
  const auto fitting = static_cast<int>(device.shared_bytes_per_sm / block_bytes);
  return device.num_sms * std::clamp(fitting, 1, variant.blocks_per_sm);
}

size_t AttentionWorkspaceBytes(const AttentionWorkspaceLimits& limits) {
  return WorkspaceLayout(limits).size_bytes;
}

void LaunchAttention(const Stream& stream, const AttentionLaunch& launch) {
  CheckLaunch(launch);
  const AttentionGrid grid = {launch.limits.num_blocks,
                              launch.combines ? 2 * launch.limits.num_blocks : 0};
  const Variant& variant = GetVariant(launch.spec.head_dim);
  const Variant::Launcher launcher = launch.type == DType::kBf16 ? variant.bf16 : variant.fp16;
  launcher(stream, MakeParams(launch), grid);
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
