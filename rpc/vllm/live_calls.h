// LiveCalls: the calls to the engine whose contexts are still there. A context holds its channel,
// and gRPC's callbacks let go of it after they have answered. If that were the channel's last
// holder, and the channel the last that callbacks are for, one of gRPC's threads would wait for its
// own end and abort. So whoever owns the channel waits for the calls first.
#pragma once

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace polystrate {

class LiveCalls {
 public:
  // A call, to be the first member of whatever holds its context and so the last to go.
  class Call {
   public:
    explicit Call(LiveCalls& calls) : calls_(calls) { calls_.Add(1); }
    ~Call() { calls_.Add(-1); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    LiveCalls& calls_;
  };

  void WaitForNone() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return num_calls_ == 0; };
    mutex_.Await(absl::Condition(&none));
  }

 private:
  void Add(int64_t n) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    num_calls_ += n;
  }

  absl::Mutex mutex_;
  int64_t num_calls_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace polystrate
