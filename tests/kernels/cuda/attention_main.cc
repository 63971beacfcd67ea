// usage: cuda_attention_test [SUBSTRING [SEED]]   runs the cases whose name contains SUBSTRING;
// SEED decides the simulated device's lane order.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "tests/kernels/cuda/attention_run.h"

namespace {

using tessera::conformance::AttentionCase;
using tessera::conformance::Checker;

struct Tally {
  int num_run = 0;
  int num_failed = 0;
};

void RunCases(const std::vector<AttentionCase>& cases, const std::string& substring, Tally* tally) {
  for (const AttentionCase& test : cases) {
    if (test.name.find(substring) == std::string::npos) continue;
    const auto begin = std::chrono::steady_clock::now();
    Checker checker;
    test.run(checker);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    const bool failed = checker.num_failures() > 0;
    std::printf("%s %s (%.2f s)\n", failed ? "FAIL" : "PASS", test.name.c_str(), elapsed.count());
    std::fflush(stdout);
    ++tally->num_run;
    tally->num_failed += failed;
  }
}

}  // namespace

int main(int argc, char** argv) {
  namespace conformance = tessera::conformance;
  conformance::cuda::DeviceProperties properties;
  const std::string error = conformance::cuda::OpenDevice(0, &properties);
  if (!error.empty()) {
    std::fprintf(stderr, "cuda_attention_test: %s\n", error.c_str());
    return 1;
  }
  const std::string substring = argc > 1 ? argv[1] : "";
#ifdef TESSERA_SIMT
  if (argc > 2) tessera::simt::Device::Get().SetSeed(static_cast<unsigned>(std::atoi(argv[2])));
#endif
  Tally tally;
  RunCases(conformance::AttentionPlanCases(), substring, &tally);
  RunCases(conformance::RopeStoreKvCases(), substring, &tally);
  RunCases(conformance::AttentionAccuracyCases(), substring, &tally);
  RunCases(conformance::AttentionBitCases(), substring, &tally);
  std::printf("%d of %d failed on %s\n", tally.num_failed, tally.num_run, properties.name.c_str());
  return tally.num_failed == 0 && tally.num_run > 0 ? 0 : 1;
}
