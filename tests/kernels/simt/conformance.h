#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

// The few lines of a test framework that a machine with a GPU and nothing else needs.

namespace tessera::conformance {

class Checker {
 public:
  // Prints the first few failures; got and expected by their bits or values as text.
  template <typename T>
  void ExpectEqual(T got, T expected, const char* what, long index) {
    if (got == expected) return;
    Fail(std::string(what) + "[" + std::to_string(index) + "]: got " + std::to_string(got) +
         ", expected " + std::to_string(expected));
  }

  void Expect(bool condition, const std::string& message) {
    if (!condition) Fail(message);
  }

  int num_failures() const { return num_failures_; }

 private:
  void Fail(const std::string& message) {
    constexpr int kMaxPrinted = 5;
    if (++num_failures_ <= kMaxPrinted) std::printf("  %s\n", message.c_str());
  }

  int num_failures_ = 0;
};

struct Case {
  const char* name;
  std::function<void(Checker&)> run;
};

// The cases of each file.
std::vector<Case> ArithmeticCases();
std::vector<Case> MatrixCases();
std::vector<Case> WarpCases();
std::vector<Case> RuntimeCases();

}  // namespace tessera::conformance
