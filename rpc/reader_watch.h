// ReaderWatch: ends the streams of readers that have stopped reading. One thread for all streams,
// which looks at each a few times in a time-out; a token costs nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace polystrate {

// What such a stream ends with: RESOURCE_EXHAUSTED, and the request may be sent again at once, by a
// reader that keeps up.
absl::Status StalledReader(const std::string& how);

// `Stream` is GenerateReactor, GatewayStream or RoutedCall.
template <typename Stream>
class ReaderWatch {
 public:
  ReaderWatch() = default;
  ~ReaderWatch();

  // A reader that takes nothing for so long is given up: its stream is to end with
  // RESOURCE_EXHAUSTED. If it does not take that for as long again, the stream is broken off. Once,
  // before the first stream.
  void Start(absl::Duration timeout);

  // From the time when it may write until gRPC is done with it.
  void Add(Stream* stream);
  void Remove(Stream* stream);
  // Until there are none, or the deadline.
  void WaitForNone(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Seen {
    std::optional<uint64_t> operation;  // that was under way
    absl::Time since;                   // when it was seen first
    bool given_up = false;
  };

  void Watch();
  void Look(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);

  absl::Duration timeout_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<Stream*, Seen> streams_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace polystrate
