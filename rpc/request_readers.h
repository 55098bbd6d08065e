// RequestReaders: threads that tokenise long texts. gRPC's own are few and write every stream, so
// that a few megabytes of text would hold up all of them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace polystrate {

class RequestReaders {
 public:
  static constexpr int64_t kMaxWaitingBytes = 64 << 20;

  explicit RequestReaders(int num_threads);
  ~RequestReaders();  // when all that waits is read

  // Calls `read` on one of the threads. RESOURCE_EXHAUSTED, with a retry delay, when requests of
  // more than kMaxWaitingBytes wait together; one alone may be larger.
  absl::Status Add(int64_t bytes, std::function<void()> read);

 private:
  struct Task {
    int64_t bytes;
    std::function<void()> read;
  };

  void Work();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !tasks_.empty();
  }

  absl::Mutex mutex_;
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // that wait or are being read
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace polystrate
