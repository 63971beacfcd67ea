#include "kernels/cpu/isa.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "base/check.h"

namespace tessera {
namespace {

// Bit numbers: Intel SDM volume 2, CPUID.
constexpr uint32_t kLeaf1EcxFma = 1u << 12;
constexpr uint32_t kLeaf1EcxOsxsave = 1u << 27;
constexpr uint32_t kLeaf1EcxAvx = 1u << 28;
constexpr uint32_t kLeaf1EcxF16c = 1u << 29;
constexpr uint32_t kLeaf7EbxAvx2 = 1u << 5;
constexpr uint32_t kLeaf7EbxAvx512 =
    (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F DQ BW VL
constexpr uint32_t kLeaf7EcxVnni = 1u << 11;
constexpr uint32_t kLeaf7EdxAmx = (1u << 22) | (1u << 24);  // BF16 TILE
// What the operating system saves on a context switch: XMM and YMM; opmask and both ZMM halves.
constexpr uint64_t kXcr0Avx = 0x06;
constexpr uint64_t kXcr0Avx512 = 0xE6;
constexpr uint64_t kXcr0Amx = kXcr0Avx512 | 0x60000;  // and the tiles' shapes and data
// Linux saves tiles only for a process that asked: Documentation/arch/x86/xstate.rst.
constexpr int kArchReqXcompPerm = 0x1023;
constexpr int kXfeatureTileData = 18;

uint64_t ReadXcr0() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

bool HasAll(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

bool AskForTiles() { return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0; }

CpuIsa DetectIsa() {
  uint32_t eax = 0, ebx = 0, ecx1 = 0, ecx7 = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx1, &edx) == 0) return CpuIsa::kPortable;
  if (!HasAll(ecx1, kLeaf1EcxOsxsave | kLeaf1EcxAvx | kLeaf1EcxFma | kLeaf1EcxF16c)) {
    return CpuIsa::kPortable;
  }
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx7, &edx) == 0) return CpuIsa::kPortable;
  const uint64_t saved_state = ReadXcr0();
  if (!HasAll(ebx, kLeaf7EbxAvx2) || !HasAll(saved_state, kXcr0Avx)) return CpuIsa::kPortable;
  if (!HasAll(ebx, kLeaf7EbxAvx512) || !HasAll(saved_state, kXcr0Avx512)) return CpuIsa::kAvx2;
  if (!HasAll(ecx7, kLeaf7EcxVnni)) return CpuIsa::kAvx512;
  const bool has_amx = HasAll(edx, kLeaf7EdxAmx) && HasAll(saved_state, kXcr0Amx);
  return has_amx && AskForTiles() ? CpuIsa::kAmx : CpuIsa::kAvx512Vnni;
}

// Each path's machines can also run those before it.
CpuIsa WidestIsa() {
  static const CpuIsa widest = DetectIsa();
  return widest;
}

}  // namespace

bool IsSupported(CpuIsa isa) {
  return isa == CpuIsa::kAuto || static_cast<int>(isa) <= static_cast<int>(WidestIsa());
}

CpuIsa ResolveIsa(CpuIsa isa) {
  CHECK(IsSupported(isa)) << "this machine cannot run CPU path " << static_cast<int>(isa);
  return isa == CpuIsa::kAuto ? WidestIsa() : isa;
}

}  // namespace tessera
