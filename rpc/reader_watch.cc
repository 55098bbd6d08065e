#include "rpc/reader_watch.h"

#include <algorithm>
#include <vector>

#include "absl/time/clock.h"
#include "rpc/generate_reactor.h"

namespace polystrate {

ReaderWatch::~ReaderWatch() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void ReaderWatch::Start(absl::Duration timeout) {
  timeout_ = timeout;
  thread_ = std::thread([this] { Watch(); });
}

void ReaderWatch::Add(GenerateReactor* stream) {
  absl::MutexLock lock(&mutex_);
  streams_.emplace(stream, Seen{});
}

void ReaderWatch::Remove(GenerateReactor* stream) {
  absl::MutexLock lock(&mutex_);
  streams_.erase(stream);
}

void ReaderWatch::WaitForNone(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return streams_.empty(); };
  mutex_.AwaitWithDeadline(absl::Condition(&none), deadline);
}

void ReaderWatch::Watch() {
  const absl::Duration interval =
      std::clamp(timeout_ / 8, absl::Milliseconds(10), absl::Seconds(1));
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), interval)) return;
    }
    Look(absl::Now());
  }
}

void ReaderWatch::Look(absl::Time now) {
  std::vector<GenerateReactor*> to_give_up;
  std::vector<GenerateReactor*> to_break;
  {
    absl::MutexLock lock(&mutex_);
    for (auto& [stream, seen] : streams_) {
      const std::optional<uint64_t> operation = stream->PendingOperation();
      if (operation != seen.operation) {
        seen.operation = operation;
        seen.since = now;
      }
      if (!operation.has_value() || now - seen.since < timeout_) continue;
      (seen.given_up ? to_break : to_give_up).push_back(stream);
      stream->Retain();
      seen.given_up = true;
      seen.since = now;
    }
  }
  // Without the mutex, for they may end and be removed in the course of it.
  for (GenerateReactor* stream : to_give_up) {
    stream->GiveUpReader(timeout_);
    stream->Release();
  }
  for (GenerateReactor* stream : to_break) {
    stream->Break();
    stream->Release();
  }
}

}  // namespace polystrate
