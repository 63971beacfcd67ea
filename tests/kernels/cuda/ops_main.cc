// usage: cuda_ops_test [SUBSTRING [SEED]]   runs the cases whose name contains SUBSTRING; SEED
// decides the simulated device's lane order.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernels/cuda/runtime.h"
#include "tests/kernels/cuda/op_cases.h"

namespace {

using tessera::conformance::Case;
using tessera::conformance::Checker;

// Returns how many failed.
int RunCases(const std::vector<Case>& cases, const std::string& substring) {
  int num_failed = 0;
  for (const Case& test : cases) {
    if (std::string(test.name).find(substring) == std::string::npos) continue;
    const auto begin = std::chrono::steady_clock::now();
    Checker checker;
    test.run(checker);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    std::printf("%s %s (%.2f s)\n", checker.num_failures() == 0 ? "PASS" : "FAIL", test.name,
                elapsed.count());
    std::fflush(stdout);
    num_failed += checker.num_failures() > 0;
  }
  return num_failed;
}

}  // namespace

int main(int argc, char** argv) {
  namespace cuda = tessera::TESSERA_CUDA_NAMESPACE;
  cuda::DeviceProperties properties;
  const std::string error = cuda::OpenDevice(0, &properties);
  if (!error.empty()) {
    std::fprintf(stderr, "cuda_ops_test: %s\n", error.c_str());
    return 1;
  }
  const std::string substring = argc > 1 ? argv[1] : "";
#ifdef TESSERA_SIMT
  if (argc > 2) tessera::simt::Device::Get().SetSeed(static_cast<unsigned>(std::atoi(argv[2])));
#endif
  const int num_failed = RunCases(tessera::conformance::DeviceMathCases(), substring) +
                         RunCases(tessera::conformance::ElementwiseCases(), substring) +
                         RunCases(tessera::conformance::GemmCases(), substring) +
                         RunCases(tessera::conformance::SampleCases(), substring);
  std::printf("%d failed on %s\n", num_failed, properties.name.c_str());
  return num_failed == 0 ? 0 : 1;
}
