// ConnectionThreads: httplib's queue of connections, with a thread for each that is open: a client
// that is slow, or listens to a long answer, keeps nobody else waiting.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "httplib.h"

namespace polystrate {

// Threads that are done take the next connection; there are as many as connections were open at
// once. Who bounds those is HttpListener.
class ConnectionThreads final : public httplib::TaskQueue {
 public:
  void enqueue(std::function<void()> connection) override ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns when all connections are done.
  void shutdown() override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return !waiting_.empty() || shutting_down_;
  }

  absl::Mutex mutex_;
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  size_t num_idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool shutting_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace polystrate
