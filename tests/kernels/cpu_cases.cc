#include "tests/kernels/backend_cases.h"

namespace tessera {

// Two threads, as one and as three.
std::vector<BackendCase> TestedCases() {
  std::vector<BackendCase> cases = CpuCases();
  cases.push_back(
      {.name = "one_thread", .make = [] { return MakeCpuBackend({.num_threads = 1}); }});
  cases.push_back(
      {.name = "three_threads", .make = [] { return MakeCpuBackend({.num_threads = 3}); }});
  return cases;
}

}  // namespace tessera
