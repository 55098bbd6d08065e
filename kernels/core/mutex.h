// Mutex: std::mutex with clang's thread-safety annotations and absl::Mutex's way of waiting for a
// condition. absl's own is not used below rpc/ because the distribution builds it without the
// thread sanitizer's hooks: under ./test.sh --tsan it would order nothing and every use would look
// like a race.
#pragma once

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"

namespace polystrate {

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    const bool wake = num_waiting_ > 0;
    mutex_.unlock();
    if (wake) changed_.notify_all();
  }

  // Waits until condition() is true; it is looked at with the mutex held, whenever another thread
  // has released the mutex.
  template <typename Condition>
  void Await(Condition condition) ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    if (num_waiting_ > 0) changed_.notify_all();  // of what this thread has changed before it waits
    ++num_waiting_;
    changed_.wait(lock, condition);
    --num_waiting_;
    lock.release();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int num_waiting_ = 0;  // guarded by mutex_
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

}  // namespace polystrate
