#pragma once

#include <array>
#include <cstdint>

#include "scheduler/request.h"

namespace tessera {

// What a step computes, as far as its time depends on it.
struct StepWork {
  int num_rows = 0;
  int64_t num_pairs = 0;  // (row, key it attends to), summed over rows

  // Adds `count` tokens of a sequence, the first at position `first`.
  void AddRows(int first, int count) {
    num_rows += count;
    num_pairs += int64_t{count} * first + int64_t{count} * (count + 1) / 2;
  }
};

// Predicts a step's time from its work, t = a + b rows + c pairs, with coefficients learnt from the
// steps that ran: recursive least squares of the relative error, forgetting old steps (Haykin,
// Adaptive Filter Theory, chapter 10). Times choose how much a step computes, never what comes out.
class StepTimeModel {
 public:
  void Observe(const StepWork& work, TimeNs time);

  // True once enough steps were seen for a prediction to mean something.
  bool is_ready() const { return num_observed_ >= kMinObserved; }

  // At least 0; never less for more work. REQUIRES: is_ready().
  TimeNs Predict(const StepWork& work) const;

 private:
  static constexpr int kMinObserved = 8;
  static constexpr int kNumTerms = 3;
  using Vector = std::array<double, kNumTerms>;

  static Vector Terms(const StepWork& work);

  Vector coefficients_ = {};  // ms of each term
  // The inverse of the terms' weighted correlation: how unsure each coefficient still is.
  std::array<Vector, kNumTerms> covariance_ = {{{1e6, 0, 0}, {0, 1e6, 0}, {0, 0, 1e6}}};
  int num_observed_ = 0;
};

}  // namespace tessera
