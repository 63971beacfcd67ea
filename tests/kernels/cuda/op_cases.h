#pragma once

#include <vector>

#include "tests/kernels/simt/conformance.h"

// The ops of kernels/cuda but attention, held to the CPU's bits, to the reference backend or to a
// definition in double; on the device, or, built with TESSERA_SIMT, on the simulated one.

namespace tessera::conformance {

std::vector<Case> DeviceMathCases();
std::vector<Case> ElementwiseCases();
std::vector<Case> GemmCases();
std::vector<Case> SampleCases();

}  // namespace tessera::conformance
