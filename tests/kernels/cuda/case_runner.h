#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "tests/kernels/simt/conformance.h"

namespace tessera::conformance {

// Opens the device and runs the cases whose name contains a substring.
class CaseRunner {
 public:
  // Arguments [SUBSTRING [SEED]]: SEED decides the simulated device's lane order.
  CaseRunner(const char* program, int argc, char** argv) : substring_(argc > 1 ? argv[1] : "") {
    const std::string error = TESSERA_CUDA_NAMESPACE::OpenDevice(0, &properties_);
    if (!error.empty()) {
      std::fprintf(stderr, "%s: %s\n", program, error.c_str());
      std::exit(1);
    }
#ifdef TESSERA_SIMT
    if (argc > 2) simt::Device::Get().SetSeed(static_cast<unsigned>(std::atoi(argv[2])));
#endif
  }

  // AnyCase: a name and a run(Checker&).
  template <typename AnyCase>
  void Run(const std::vector<AnyCase>& cases) {
    for (const AnyCase& test : cases) {
      const std::string name = test.name;
      if (name.find(substring_) == std::string::npos) continue;
      const auto begin = std::chrono::steady_clock::now();
      Checker checker;
      test.run(checker);
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
      const bool failed = checker.num_failures() > 0;
      std::printf("%s %s (%.2f s)\n", failed ? "FAIL" : "PASS", name.c_str(), elapsed.count());
      std::fflush(stdout);
      ++num_run_;
      num_failed_ += failed;
    }
  }

  // The program's exit code: that nothing ran is a failure too.
  int Finish() const {
    std::printf("%d of %d failed on %s\n", num_failed_, num_run_, properties_.name.c_str());
    return num_failed_ == 0 && num_run_ > 0 ? 0 : 1;
  }

 private:
  const std::string substring_;
  TESSERA_CUDA_NAMESPACE::DeviceProperties properties_;
  int num_run_ = 0;
  int num_failed_ = 0;
};

}  // namespace tessera::conformance
