#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace tessera {

// A few pinned threads that run the same function together, many times a millisecond.
//
// The calling thread is worker 0. An idle worker spins for a bounded time, then sleeps on a futex,
// since gRPC threads share the same cores. Every worker computes with MXCSR = 0x1F80 (round to
// nearest, no flush to zero), as docs/numerics.md demands. Owned and called by one thread at a
// time.
class WorkerPool {  // NOLINT(clang-analyzer-optin.performance.Padding): lines are not shared
 public:
  // num_threads <= 0: one for each CPU this process may use (affinity and cgroup quota respected).
  explicit WorkerPool(int num_threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls function(worker) for worker in [0, num_threads) and returns when all are done.
  template <typename Function>
  void Run(const Function& function) {
    RunErased([](const void* f, int worker) { (*static_cast<const Function*>(f))(worker); },
              &function);
  }

  // Inside Run: waits until every worker has come here.
  void Barrier();

 private:
  using Task = void (*)(const void* function, int worker);

  void RunErased(Task task, const void* function);
  void WorkerLoop(int worker);
  void WaitForGeneration(uint32_t last_seen);

  const int num_threads_;
  Task task_ = nullptr;
  const void* function_ = nullptr;

  alignas(64) std::atomic<uint32_t> generation_{0};  // raised once a Run; workers wait for it
  std::atomic<int> num_sleeping_{0};
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<int> num_done_{0};
  alignas(64) std::atomic<int> barrier_count_{0};
  alignas(64) std::atomic<uint32_t> barrier_generation_{0};
  std::vector<std::thread> threads_;
};

// CPUs this process may use: its affinity mask, capped by the cgroup's quota. At least 1.
int NumUsableCpus();

}  // namespace tessera
