// What rank monitors are told: when a rank counts as lost and who wants to know.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace polystrate {

// How often each side says that it lives.
constexpr absl::Duration kMonitorBeat = absl::Milliseconds(250);

// A rank that left without a word, or says nothing any more.
struct LostRank {
  int rank = 0;
  std::string host;
  int64_t pid = 0;
  std::string how;  // "its process has ended"
};

struct MonitorOptions {
  // Silence after which a rank counts as lost. Time in which this process did not run itself is not
  // counted, so a job that is stopped and continued as a whole loses nobody.
  absl::Duration timeout = absl::Seconds(20);
  // All are called on the monitor's thread. On rank 0 for any rank, on others for rank 0 alone:
  std::function<void(const LostRank&)> on_lost;
  // On rank 0 at every beat, with the time since the last, less what this process did not run. True
  // when the job is to end.
  std::function<bool(absl::Duration)> on_beat;
  // On rank 0 after either, once the other ranks know that they need not miss it.
  std::function<void()> on_end;
};

// Time in which this process ran: what passes between two looks counts up to two beats, so that
// nobody is blamed for a sleep of this process's own.
class AwakeClock {
 public:
  absl::Duration SinceLastLook() {
    const absl::Time now = absl::Now();
    const absl::Duration passed = now - last_;
    last_ = now;
    return std::clamp(passed, absl::ZeroDuration(), 2 * kMonitorBeat);
  }

 private:
  absl::Time last_ = absl::Now();
};

}  // namespace polystrate
