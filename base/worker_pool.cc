#include "base/worker_pool.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>

namespace tessera {
namespace {

constexpr unsigned kMxcsrDefault = 0x1F80;  // all exceptions masked, round to nearest, no FTZ/DAZ
// How long an idle worker spins before it sleeps: longer than the gap between two ops of a step,
// far shorter than a scheduler tick.
constexpr auto kSpinTime = std::chrono::microseconds(50);
constexpr int kSpinsPerClockRead = 64;
// A worker that others wait for may have lost its core to a gRPC thread, or even to us: after this
// many spins give ours away instead of burning it. With 4096 the inter-token p99 beside a flood of
// bad requests was 1.5 times as long (tests/system/security_test.py).
constexpr int kSpinsPerYield = 256;

template <typename Condition>
void SpinUntil(const Condition& condition) {
  for (int spins = 1; !condition(); ++spins) {
    _mm_pause();
    if (spins % kSpinsPerYield == 0) sched_yield();
  }
}

cpu_set_t UsableCpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) CPU_SET(0, &cpus);
  return cpus;
}

// cgroup v2's cpu.max is "quota period" or "max period".
int CgroupCpuLimit() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return CPU_SETSIZE;
  const double quota_us = std::strtod(quota.c_str(), nullptr);
  return std::max(1, static_cast<int>(std::ceil(quota_us / period)));
}

void PinToUsableCpu(pthread_t thread, int index) {
  const cpu_set_t usable = UsableCpus();
  const int target = index % CPU_COUNT(&usable);
  int seen = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &usable) || seen++ != target) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(thread, sizeof one, &one);
    return;
  }
}

}  // namespace

int NumUsableCpus() {
  const cpu_set_t cpus = UsableCpus();
  return std::max(1, std::min(CPU_COUNT(&cpus), CgroupCpuLimit()));
}

WorkerPool::WorkerPool(int num_threads)
    : num_threads_(num_threads > 0 ? num_threads : NumUsableCpus()) {
  // Worker 0 is the caller's thread and is not pinned: it may not outlive this pool.
  for (int worker = 1; worker < num_threads_; ++worker) {
    threads_.emplace_back([this, worker] { WorkerLoop(worker); });
    PinToUsableCpu(threads_.back().native_handle(), worker);
  }
}

WorkerPool::~WorkerPool() {
  stopping_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::RunErased(Task task, const void* function) {
  const unsigned caller_mxcsr = _mm_getcsr();
  _mm_setcsr(kMxcsrDefault);
  task_ = task;
  function_ = function;
  num_done_.store(0, std::memory_order_relaxed);
  // seq_cst pairs with WaitForGeneration: either we see the sleeper or it sees the generation.
  generation_.fetch_add(1, std::memory_order_seq_cst);
  if (num_sleeping_.load(std::memory_order_seq_cst) > 0) generation_.notify_all();
  task(function, 0);
  SpinUntil([&] { return num_done_.load(std::memory_order_acquire) == num_threads_ - 1; });
  _mm_setcsr(caller_mxcsr);
}

void WorkerPool::Barrier() {
  if (num_threads_ == 1) return;
  const uint32_t generation = barrier_generation_.load(std::memory_order_relaxed);
  if (barrier_count_.fetch_add(1, std::memory_order_acq_rel) == num_threads_ - 1) {
    barrier_count_.store(0, std::memory_order_relaxed);
    barrier_generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  SpinUntil([&] { return barrier_generation_.load(std::memory_order_acquire) != generation; });
}

void WorkerPool::WorkerLoop(int worker) {
  _mm_setcsr(kMxcsrDefault);
  for (uint32_t seen = 0;; ++seen) {
    WaitForGeneration(seen);
    if (stopping_.load(std::memory_order_relaxed)) return;
    task_(function_, worker);
    num_done_.fetch_add(1, std::memory_order_release);
  }
}

void WorkerPool::WaitForGeneration(uint32_t last_seen) {
  const auto spin_end = std::chrono::steady_clock::now() + kSpinTime;
  for (int spins = 1; generation_.load(std::memory_order_acquire) == last_seen; ++spins) {
    _mm_pause();
    if (spins % kSpinsPerClockRead != 0 || std::chrono::steady_clock::now() < spin_end) continue;
    num_sleeping_.fetch_add(1, std::memory_order_seq_cst);
    generation_.wait(last_seen, std::memory_order_seq_cst);
    num_sleeping_.fetch_sub(1, std::memory_order_relaxed);
  }
}

}  // namespace tessera
