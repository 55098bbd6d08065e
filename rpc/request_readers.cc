#include "rpc/request_readers.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/queue_bound.h"
#include "engine/retry_delay.h"

namespace polystrate {

RequestReaders::RequestReaders(int num_threads) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Work(); });
}

RequestReaders::~RequestReaders() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

absl::Status RequestReaders::Add(int64_t bytes, std::function<void()> read) {
  absl::MutexLock lock(&mutex_);
  if (bytes_ > 0 && bytes_ + bytes > kMaxWaitingBytes) {
    return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                              "too much text waits to be tokenised: ", bytes_, " of at most ",
                              kMaxWaitingBytes, " bytes, and this request has ", bytes)),
                          QueueBound::kMinRetryDelay);
  }
  bytes_ += bytes;
  tasks_.push_back({bytes, std::move(read)});
  return absl::OkStatus();
}

void RequestReaders::Work() {
  while (true) {
    Task task;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &RequestReaders::HasWork));
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task.read();
    absl::MutexLock lock(&mutex_);
    bytes_ -= task.bytes;
  }
}

}  // namespace polystrate
