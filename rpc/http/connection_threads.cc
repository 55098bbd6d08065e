#include "rpc/http/connection_threads.h"

#include <utility>

namespace polystrate {

void ConnectionThreads::enqueue(std::function<void()> connection) {
  absl::MutexLock lock(&mutex_);
  waiting_.push_back(std::move(connection));
  if (num_idle_ < waiting_.size()) threads_.emplace_back([this] { Run(); });
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
