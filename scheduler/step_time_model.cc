#include "scheduler/step_time_model.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace tessera {
namespace {

constexpr double kNsPerMs = 1e6;
constexpr double kMemory = 0.9;  // weight that a step keeps after another one of like size
constexpr int kNumSweeps = 20;   // of coordinate descent, from the fit before
constexpr double kSlownessStep = 0.05;
constexpr double kSlownessLeak = 0.003;
constexpr double kLeastMs = 1e-6;
// A step that takes much longer than predicted was mostly held up by something else, such as memory
// that the system had to find, and one after a late look at the clock seems short: they count as
// ones that took so many times longer, or shorter.
constexpr double kMaxDelay = 1.3;
// Beyond this a step is left out, and after some in a row everything is learnt anew.
constexpr double kStrange = 8;

}  // namespace

void StepTimeModel::Sums::Add(const Sums& other) {
  for (int i = 0; i < kNumTerms; ++i) {
    terms[i] += other.terms[i];
    for (int j = 0; j < kNumTerms; ++j) products[i][j] += other.products[i][j];
  }
}

// Scaled so that usual steps have terms near 1. The constant is last: what steps that are all alike
// do not tell apart is taken for the cost of rows.
StepTimeModel::Vector StepTimeModel::Terms(const StepWork& work) {
  return {work.num_rows / 64.0, static_cast<double>(work.num_pairs) / 65536.0, 1.0};
}

void StepTimeModel::Observe(const StepWork& work, TimeNs time) {
  if (time <= 0) return;
  double ms = static_cast<double>(time) / kNsPerMs;
  if (is_ready()) {
    const double predicted = PredictMs(work);
    if (ms > kStrange * predicted || predicted > kStrange * ms) {
      if (++num_strange_ < kMinObserved) return;
      *this = StepTimeModel();
    } else {
      num_strange_ = 0;
      ms = std::clamp(ms, predicted / kMaxDelay, predicted * kMaxDelay);
      // At the least squares of 1 - r this moves by 0 in the mean; the leak takes back what chance
      // adds.
      const double r = predicted / ms;
      slowness_ += slowness_ * kSlownessStep * (1.0 - r) * r + kSlownessLeak * (1.0 - slowness_);
      ms /= slowness_;
    }
  }
  longest_ms_ = std::max(longest_ms_, ms);
  Vector terms = Terms(work);
  for (double& term : terms) term /= ms;
  Sums& sums =
      sums_[std::min<size_t>(std::bit_width(static_cast<unsigned>(work.num_rows)), kNumSizes - 1)];
  for (int i = 0; i < kNumTerms; ++i) {
    sums.terms[i] = kMemory * sums.terms[i] + terms[i];
    for (int j = 0; j < kNumTerms; ++j) {
      sums.products[i][j] = kMemory * sums.products[i][j] + terms[i] * terms[j];
    }
  }
  num_observed_ = std::min(num_observed_ + 1, kMinObserved);
  Fit();
}

// Coordinate descent, which ends at the least squares under the bounds (Franc, Hlavac and Navara
// 2005) and leaves alone what the steps say nothing about.
void StepTimeModel::Fit() {
  Sums all;
  for (const Sums& sums : sums_) all.Add(sums);
  // As if one long step had shown that the constant is small: few steps are too few to say that
  // fewer rows save no time.
  all.products[kNumTerms - 1][kNumTerms - 1] += 1 / (longest_ms_ * longest_ms_);
  for (int sweep = 0; sweep < kNumSweeps; ++sweep) {
    for (int i = 0; i < kNumTerms; ++i) {
      const double slope =
          all.terms[i] - std::inner_product(coefficients_.begin(), coefficients_.end(),
                                            all.products[i].begin(), 0.0);
      if (all.products[i][i] == 0.0) continue;
      coefficients_[i] = std::max(0.0, coefficients_[i] + slope / all.products[i][i]);
    }
  }
}

double StepTimeModel::PredictMs(const StepWork& work) const {
  const Vector terms = Terms(work);
  const double ms =
      std::inner_product(terms.begin(), terms.end(), coefficients_.begin(), 0.0) * slowness_;
  return std::max(ms, kLeastMs);
}

TimeNs StepTimeModel::Predict(const StepWork& work) const {
  return static_cast<TimeNs>(PredictMs(work) * kNsPerMs);
}

}  // namespace tessera
