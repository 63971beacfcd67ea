#include "scheduler/step_time_model.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr double kNsPerMs = 1e6;
constexpr double kMemory = 0.98;        // weight that an observation keeps after another one
constexpr double kMaxCovariance = 1e6;  // steps all alike teach nothing: do not forget for them

}  // namespace

// Scaled so that usual steps have terms near 1.
StepTimeModel::Vector StepTimeModel::Terms(const StepWork& work) {
  return {1.0, work.num_rows / 64.0, static_cast<double>(work.num_pairs) / 65536.0};
}

// Divided by the time itself, so that what is minimised is the relative error.
void StepTimeModel::Observe(const StepWork& work, TimeNs time) {
  if (time <= 0) return;
  Vector terms = Terms(work);
  for (double& term : terms) term /= static_cast<double>(time) / kNsPerMs;

  double trace = 0;
  for (int i = 0; i < kNumTerms; ++i) trace += covariance_[i][i];
  const double memory = trace < kMaxCovariance ? kMemory : 1.0;
  Vector gain = {};
  double spread = memory;
  double error = 1.0;
  for (int i = 0; i < kNumTerms; ++i) {
    for (int j = 0; j < kNumTerms; ++j) gain[i] += covariance_[i][j] * terms[j];
    spread += terms[i] * gain[i];
    error -= terms[i] * coefficients_[i];
  }
  for (int i = 0; i < kNumTerms; ++i) {
    coefficients_[i] += gain[i] / spread * error;
    for (int j = 0; j < kNumTerms; ++j) {
      covariance_[i][j] = (covariance_[i][j] - gain[i] * gain[j] / spread) / memory;
    }
  }
  num_observed_ = std::min(num_observed_ + 1, kMinObserved);
}

TimeNs StepTimeModel::Predict(const StepWork& work) const {
  const Vector terms = Terms(work);
  double time_ms = 0;
  for (int i = 0; i < kNumTerms; ++i) time_ms += std::max(0.0, coefficients_[i]) * terms[i];
  return static_cast<TimeNs>(time_ms * kNsPerMs);
}

}  // namespace tessera
