#include "rpc/reader_watch.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/queue_bound.h"
#include "engine/retry_delay.h"
#include "rpc/coordinator/routed_call.h"
#include "rpc/generate_reactor.h"
#include "rpc/vllm/gateway_stream.h"

namespace polystrate {

absl::Status StalledReader(const std::string& how) {
  return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat("the reader was stalled: ", how)),
                        QueueBound::kMinRetryDelay);
}

template <typename Stream>
ReaderWatch<Stream>::~ReaderWatch() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

template <typename Stream>
void ReaderWatch<Stream>::Start(absl::Duration timeout) {
  timeout_ = timeout;
  thread_ = std::thread([this] { Watch(); });
}

template <typename Stream>
void ReaderWatch<Stream>::Add(Stream* stream) {
  absl::MutexLock lock(&mutex_);
  streams_.emplace(stream, Seen{});
}

template <typename Stream>
void ReaderWatch<Stream>::Remove(Stream* stream) {
  absl::MutexLock lock(&mutex_);
  streams_.erase(stream);
}

template <typename Stream>
void ReaderWatch<Stream>::WaitForNone(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return streams_.empty(); };
  mutex_.AwaitWithDeadline(absl::Condition(&none), deadline);
}

template <typename Stream>
void ReaderWatch<Stream>::Watch() {
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

template <typename Stream>
void ReaderWatch<Stream>::Look(absl::Time now) {
  std::vector<Stream*> to_give_up;
  std::vector<Stream*> to_break;
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
  for (Stream* stream : to_give_up) {
    stream->GiveUpReader(timeout_);
    stream->Release();
  }
  for (Stream* stream : to_break) {
    stream->Break();
    stream->Release();
  }
}

template class ReaderWatch<GenerateReactor>;
template class ReaderWatch<GatewayStream>;
template class ReaderWatch<RoutedCall>;

}  // namespace polystrate
