#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "model/executor.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"

namespace tessera {

// All randomness of one simulation, from one seed.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  // Uniform in [low, high].
  int Between(int low, int high);
  bool OneIn(int count) { return Between(1, count) == 1; }
  template <typename T>
  T OneOf(std::initializer_list<T> values) {
    return values.begin()[Between(0, static_cast<int>(values.size()) - 1)];
  }
  uint64_t Word() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

// The world a simulation runs in: sizes from generous to hardly possible.
struct World {
  ExecutorLimits limits;
  SchedulerOptions options;
  int non_finite_one_in = 0;
  int num_requests = 0;
  int arrivals_one_in = 0;   // steps
  int disturbed_one_in = 0;  // moments between and within steps
};
World MakeWorld(Random* random, int max_in_flight);

// Makes requests that share prefixes with each other and with what earlier requests were answered.
class Workload {
 public:
  Workload(const World& world, Random* random);

  // Not every request is admissible.
  Request Next(TimeNs now);

  // The prompt and answer of a sequence that ended: a later prompt may go on from it.
  void Remember(const std::vector<TokenId>& tokens);

 private:
  std::vector<TokenId> MakePrompt();
  void AddStops(Request* request);

  const World& world_;
  Random* const random_;
  const int longest_;  // sequence that fits the world
  RequestId last_id_ = 0;
  std::vector<std::vector<TokenId>> texts_;
};

}  // namespace tessera
