#include "rpc/http/connection_threads.h"

#include <system_error>
#include <utility>

namespace polystrate {

void ConnectionThreads::enqueue(std::function<void()> connection) {
  absl::MutexLock lock(&mutex_);
  waiting_.push_back(std::move(connection));
  if (num_idle_ >= waiting_.size()) return;
  try {
    threads_.emplace_back([this] { Run(); });
  } catch (const std::system_error&) {
    // The machine has no more threads: it waits for one that is busy.
  }
}

void ConnectionThreads::shutdown() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    shutting_down_ = true;
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

void ConnectionThreads::Run() {
  while (true) {
    std::function<void()> connection;
    {
      absl::MutexLock lock(&mutex_);
      ++num_idle_;
      mutex_.Await(absl::Condition(this, &ConnectionThreads::HasWork));
      --num_idle_;
      if (waiting_.empty()) return;
      connection = std::move(waiting_.front());
      waiting_.pop_front();
    }
    connection();
  }
}

}  // namespace polystrate
