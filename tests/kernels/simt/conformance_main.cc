// Holds every wrapper of kernels/cuda/instr.h, and kernels/cuda/launch.h, to a plain definition: on
// the device, or, built with TESSERA_SIMT, on the simulated one.
//
// usage: instr_conformance [NUM_SEEDS]   seeds of the simulated device's lane order; 4 if not given

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/runtime.h"
#include "tests/kernels/simt/conformance.h"

namespace {

using tessera::conformance::Case;
using tessera::conformance::Checker;

int RunCases(const std::vector<Case>& cases) {
  int num_failed = 0;
  for (const Case& test : cases) {
    Checker checker;
    test.run(checker);
    std::printf("%s %s\n", checker.num_failures() == 0 ? "PASS" : "FAIL", test.name);
    num_failed += checker.num_failures() > 0;
  }
  return num_failed;
}

int RunAll() {
  return RunCases(tessera::conformance::ArithmeticCases()) +
         RunCases(tessera::conformance::MatrixCases()) +
         RunCases(tessera::conformance::WarpCases()) +
         RunCases(tessera::conformance::RuntimeCases());
}

}  // namespace

int main(int argc, char** argv) {
  namespace cuda = tessera::TESSERA_CUDA_NAMESPACE;
  cuda::DeviceProperties properties;
  const std::string error = cuda::OpenDevice(0, &properties);
  if (!error.empty()) {
    std::fprintf(stderr, "instr_conformance: %s\n", error.c_str());
    return 1;
  }
  std::printf("device: %s, compute capability %d.%d\n", properties.name.c_str(),
              properties.compute_major, properties.compute_minor);
  int num_failed = 0;
#ifdef TESSERA_SIMT
  const int num_seeds = argc > 1 ? std::atoi(argv[1]) : 4;
  for (int seed = 1; seed <= num_seeds; ++seed) {
    std::printf("seed %d\n", seed);
    tessera::simt::Device::Get().SetSeed(static_cast<unsigned>(seed));
    num_failed += RunAll();
  }
#else
  static_cast<void>(argc);
  static_cast<void>(argv);
  num_failed = RunAll();
#endif
  std::printf("%d failed\n", num_failed);
  return num_failed == 0 ? 0 : 1;
}
