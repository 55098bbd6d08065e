// Waiting in tests for what another thread or process brings about.
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace polystrate {

// Longer than anything takes on a machine that others use too.
inline constexpr absl::Duration kLong = absl::Seconds(20);

// True as soon as condition() is; false when it is not so in `time`.
template <typename Condition>
bool Within(absl::Duration time, Condition condition) {
  const absl::Time deadline = absl::Now() + time;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

}  // namespace polystrate
