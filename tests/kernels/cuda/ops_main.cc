// usage: cuda_ops_test [SUBSTRING [SEED]]   (case_runner.h)

#include "tests/kernels/cuda/case_runner.h"
#include "tests/kernels/cuda/op_cases.h"

int main(int argc, char** argv) {
  namespace conformance = tessera::conformance;
  conformance::CaseRunner runner("cuda_ops_test", argc, argv);
  runner.Run(conformance::DeviceMathCases());
  runner.Run(conformance::ElementwiseCases());
  runner.Run(conformance::GemmCases());
  runner.Run(conformance::SampleCases());
  return runner.Finish();
}
