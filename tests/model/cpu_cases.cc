#include "tests/kernels/backend_cases.h"

namespace tessera {

// Portable and the best path (those between give the same bits: tests/kernels), and the reference.
std::vector<BackendCase> TestedCases() {
  std::vector<BackendCase> cases = CpuCases();
  cases = {cases.front(), cases.back(), {.name = "reference", .make = MakeReferenceBackend}};
  if (cases[0].name == cases[1].name) cases.erase(cases.begin());
  return cases;
}

}  // namespace tessera
