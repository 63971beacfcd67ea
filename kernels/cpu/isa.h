#pragma once

#include "kernels/backend.h"

namespace tessera {

// The widest supported path for kAuto, else `isa` itself. REQUIRES: IsSupported(isa).
CpuIsa ResolveIsa(CpuIsa isa);

}  // namespace tessera
