// QueueBound: how much is queued, how much may be, and how soon there will be room. What is queued
// has been accepted and was never scheduled; a preempted sequence is not. No thread of its own: the
// engine guards it.
#pragma once

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace polystrate {

struct QueueLoad {
  int64_t requests = 0;  // outputs, rather: each takes a place of its own
  // Of prompts, which a request's outputs share, and what resumed outputs have had.
  int64_t tokens = 0;
};

class QueueBound {
 public:
  // What a client that is refused is told to wait, at least and at most. Less would bring back all
  // of them before there is room; more would leave a queue that has emptied unused.
  static constexpr absl::Duration kMinRetryDelay = absl::Seconds(1);
  static constexpr absl::Duration kMaxRetryDelay = absl::Seconds(60);

  explicit QueueBound(QueueLoad most) : most_(most) {}

  // RESOURCE_EXHAUSTED with a retry delay (retry_delay.h) when `more` has no room. It always has
  // when nothing is queued, however large it is.
  absl::Status Check(const QueueLoad& more, absl::Time now) const;
  void Add(const QueueLoad& more, absl::Time now);
  // By being scheduled or by ending.
  void Remove(const QueueLoad& gone, absl::Time now);

  const QueueLoad& load() const { return load_; }

 private:
  absl::Duration TimeUntilRoom(const QueueLoad& more, absl::Time now) const;
  void Forget(absl::Time now);

  const QueueLoad most_;
  QueueLoad load_;
  // What has left since there was a queue last, the older the less of it: an average over the last
  // seconds, and over no time in which nobody waited, as that would say nothing of the engine.
  double left_requests_ = 0.0;
  double left_tokens_ = 0.0;
  double left_seconds_ = 0.0;
  absl::Time as_of_ = absl::InfinitePast();
};

}  // namespace polystrate
