#pragma once

#include <algorithm>
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
  bool has_cpu_bits = true;  // every bit as docs/numerics.md, CPU, says
  int dim_multiple = 1;      // of rows' lengths
  // The head dimensions it was built for; empty: all.
  std::vector<int> head_dims = {};

  bool SupportsHeadDim(int head_dim) const {
    return head_dims.empty() ||
           std::find(head_dims.begin(), head_dims.end(), head_dim) != head_dims.end();
  }
};

inline BackendCase CpuCase(std::string name, CpuIsa isa) {
  return {.name = std::move(name),
          .make = [isa] { return MakeCpuBackend({.num_threads = 2, .isa = isa}); }};
}

inline std::vector<BackendCase> CpuCases() {
  std::vector<BackendCase> cases = {CpuCase("portable", CpuIsa::kPortable)};
  if (IsSupported(CpuIsa::kAvx2)) cases.push_back(CpuCase("avx2", CpuIsa::kAvx2));
  if (IsSupported(CpuIsa::kAvx512)) cases.push_back(CpuCase("avx512", CpuIsa::kAvx512));
  if (IsSupported(CpuIsa::kAvx512Vnni)) cases.push_back(CpuCase("vnni", CpuIsa::kAvx512Vnni));
  if (IsSupported(CpuIsa::kAmx)) cases.push_back(CpuCase("amx", CpuIsa::kAmx));
  return cases;
}

inline std::vector<BackendCase> AllCases() {
  std::vector<BackendCase> cases = CpuCases();
  cases.push_back({.name = "reference", .make = MakeReferenceBackend});
  return cases;
}

// What the parameterised tests of a program run on: cpu_cases.cc or cuda/cuda_cases.cc.
std::vector<BackendCase> TestedCases();

}  // namespace tessera
