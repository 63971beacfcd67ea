#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend_cases.h"

namespace tessera {
namespace {

class FlightsTest : public testing::TestWithParam<BackendCase> {
 protected:
  const std::unique_ptr<Backend> backend_ = GetParam().make();
};

// Waiting for a step brings what it downloaded, as it was then, and nothing of the step behind it.
TEST_P(FlightsTest, AStepIsWaitedForAlone) {
  ASSERT_EQ(backend_->max_in_flight(), 2);
  const std::vector<int> ones(100'000, 1);
  const size_t size_bytes = ones.size() * sizeof(int);
  const DeviceBuffer buffer = backend_->Allocate(size_bytes);
  backend_->Upload(ones.data(), size_bytes, buffer.As<void>());
  const std::vector<int> untouched(ones.size(), 7);
  const std::vector<int> zeros(ones.size(), 0);
  for (int round = 0; round < 3; ++round) {
    backend_->Upload(ones.data(), size_bytes, buffer.As<void>());
    std::vector<int> first = untouched, second = untouched;
    backend_->Download(buffer.As<void>(), size_bytes, first.data());
    backend_->EndStep();
    backend_->Zero(buffer.As<void>(), size_bytes);
    backend_->Download(buffer.As<void>(), size_bytes, second.data());
    backend_->EndStep();
    EXPECT_EQ(first, untouched);
    backend_->AwaitStep();
    EXPECT_EQ(first, ones);
    EXPECT_EQ(second, untouched);
    backend_->AwaitStep();
    EXPECT_EQ(second, zeros);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, FlightsTest, testing::ValuesIn(TestedCases()),
                         [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace tessera
