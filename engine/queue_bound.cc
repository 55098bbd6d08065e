#include "engine/queue_bound.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/retry_delay.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

constexpr absl::Duration kMemory = absl::Seconds(10);

// Seconds until `excess` has left, at the pace of `left` in `seconds`. As if one more had left: a
// queue that has not moved yet is not one that never will.
double SecondsUntil(int64_t excess, double left, double one, double seconds) {
  return static_cast<double>(std::max<int64_t>(excess, 0)) * seconds / (left + one);
}

}  // namespace

absl::Status QueueBound::Check(const QueueLoad& more, absl::Time now) const {
  if (load_.requests == 0) return absl::OkStatus();
  const bool fits = load_.requests + more.requests <= most_.requests &&
                    load_.tokens + more.tokens <= most_.tokens;
  if (fits) return absl::OkStatus();
  const absl::Duration delay = TimeUntilRoom(more, now);
  const auto status = absl::ResourceExhaustedError(absl::StrCat(
      "the queue is full: ", load_.requests, " of ", most_.requests, " requests and ", load_.tokens,
      " of ", most_.tokens, " prompt tokens wait, and this one has ", more.requests, " and ",
      more.tokens, "; try again in ", absl::FormatDuration(delay)));
  return WithRetryDelay(status, delay);
}

void QueueBound::Add(const QueueLoad& more, absl::Time now) {
  if (load_.requests == 0) {
    left_requests_ = left_tokens_ = left_seconds_ = 0.0;
    as_of_ = now;
  }
  load_.requests += more.requests;
  load_.tokens += more.tokens;
}

void QueueBound::Remove(const QueueLoad& gone, absl::Time now) {
  Forget(now);
  left_requests_ += static_cast<double>(gone.requests);
  left_tokens_ += static_cast<double>(gone.tokens);
  load_.requests -= gone.requests;
  load_.tokens -= gone.tokens;
  CHECK_GE(load_.requests, 0);
  CHECK_GE(load_.tokens, 0);
}

void QueueBound::Forget(absl::Time now) {
  const double elapsed = std::max(absl::ToDoubleSeconds(now - as_of_), 0.0);
  const double kept = std::exp(-elapsed / absl::ToDoubleSeconds(kMemory));
  left_requests_ *= kept;
  left_tokens_ *= kept;
  left_seconds_ = left_seconds_ * kept + absl::ToDoubleSeconds(kMemory) * (1.0 - kept);
  as_of_ = now;
}

absl::Duration QueueBound::TimeUntilRoom(const QueueLoad& more, absl::Time now) const {
  QueueBound until_now = *this;
  until_now.Forget(now);
  const double seconds = until_now.left_seconds_;
  const double mean_tokens =
      static_cast<double>(load_.tokens) / static_cast<double>(load_.requests);
  const double wait = std::max(SecondsUntil(load_.requests + more.requests - most_.requests,
                                            until_now.left_requests_, 1.0, seconds),
                               SecondsUntil(load_.tokens + more.tokens - most_.tokens,
                                            until_now.left_tokens_, mean_tokens, seconds));
  // Whole tenths: a delay is an estimate, and is read by people.
  return std::clamp(absl::Ceil(absl::Seconds(wait), absl::Milliseconds(100)), kMinRetryDelay,
                    kMaxRetryDelay);
}

}  // namespace polystrate
