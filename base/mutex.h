#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

// Clang's thread-safety attributes; nothing on other compilers.
#if defined(__clang__)
#define THREAD_ATTRIBUTE_(x) __attribute__((x))
#else
#define THREAD_ATTRIBUTE_(x)
#endif
// Abseil's headers bring a GUARDED_BY that means the same.
#ifndef GUARDED_BY
#define GUARDED_BY(mutex) THREAD_ATTRIBUTE_(guarded_by(mutex))
#endif
#define REQUIRES_LOCK(...) THREAD_ATTRIBUTE_(exclusive_locks_required(__VA_ARGS__))
#define EXCLUDES_LOCK(...) THREAD_ATTRIBUTE_(locks_excluded(__VA_ARGS__))

namespace tessera {

// std::mutex that Clang's -Wthread-safety can follow. Not absl::Mutex: Debian's
// prebuilt Abseil hides its locking from ThreadSanitizer.
class THREAD_ATTRIBUTE_(lockable) Mutex {
 public:
  void Lock() THREAD_ATTRIBUTE_(exclusive_lock_function()) { mutex_.lock(); }
  void Unlock() THREAD_ATTRIBUTE_(unlock_function()) { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class THREAD_ATTRIBUTE_(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) THREAD_ATTRIBUTE_(exclusive_lock_function(mutex))
      : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() THREAD_ATTRIBUTE_(unlock_function()) { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

// Waits may wake spuriously: loop on the condition.
class CondVar {
 public:
  void Wait(Mutex* mutex) REQUIRES_LOCK(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  void WaitUntil(Mutex* mutex, std::chrono::steady_clock::time_point deadline)
      REQUIRES_LOCK(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    condition_.wait_until(lock, deadline);
    lock.release();
  }
  void NotifyOne() { condition_.notify_one(); }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace tessera
