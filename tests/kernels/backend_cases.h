#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace tessera {

// A backend that this machine can run, for parameterised tests.
struct BackendCase {
  std::string name;
  std::function<std::unique_ptr<Backend>()> make;
};

inline BackendCase CpuCase(std::string name, CpuIsa isa) {
  return {std::move(name), [isa] { return MakeCpuBackend({.num_threads = 2, .isa = isa}); }};
}

inline std::vector<BackendCase> CpuCases() {
  std::vector<BackendCase> cases = {CpuCase("portable", CpuIsa::kPortable)};
  if (IsSupported(CpuIsa::kAvx2)) cases.push_back(CpuCase("avx2", CpuIsa::kAvx2));
  if (IsSupported(CpuIsa::kAvx512)) cases.push_back(CpuCase("avx512", CpuIsa::kAvx512));
  if (IsSupported(CpuIsa::kAvx512Vnni)) cases.push_back(CpuCase("vnni", CpuIsa::kAvx512Vnni));
  return cases;
}

inline std::vector<BackendCase> AllCases() {
  std::vector<BackendCase> cases = CpuCases();
  cases.push_back({"reference", MakeReferenceBackend});
  return cases;
}

}  // namespace tessera
