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
// steps that ran: the least squares of the relative error, none negative, in which later steps fade
// earlier ones of like size. Times choose how much a step computes, never what comes out.
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
  static constexpr int kNumSizes = 16;  // by the bit width of the number of rows
  using Vector = std::array<double, kNumTerms>;

  // Sums over steps, each step's terms divided by its time, so that they should add up to 1.
  struct Sums {
    std::array<Vector, kNumTerms> products = {};
    Vector terms = {};

    void Add(const Sums& other);
  };

  static Vector Terms(const StepWork& work);

  void Fit();
  double PredictMs(const StepWork& work) const;

  Vector coefficients_ = {};  // ms of each term, were slowness_ 1
  double slowness_ = 1;       // of the machine at the moment, which moves all terms alike
  std::array<Sums, kNumSizes> sums_;
  double longest_ms_ = 0;
  int num_observed_ = 0;
  int num_strange_ = 0;  // in a row
};

}  // namespace tessera
