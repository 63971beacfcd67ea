// usage: cuda_attention_test [SUBSTRING [SEED]]   (case_runner.h)

#include "tests/kernels/cuda/attention_run.h"
#include "tests/kernels/cuda/case_runner.h"

int main(int argc, char** argv) {
  namespace conformance = tessera::conformance;
  conformance::CaseRunner runner("cuda_attention_test", argc, argv);
  runner.Run(conformance::AttentionPlanCases());
  runner.Run(conformance::RopeStoreKvCases());
  runner.Run(conformance::AttentionAccuracyCases());
  runner.Run(conformance::AttentionBitCases());
  return runner.Finish();
}
