// Backoff: how a rank waits for a message. Yields at first, because in the middle of a step the
// answer is microseconds away; then sleeps, longer each time up to a millisecond, because an idle
// engine must not hold a core (a rank blocked in MPI_Recv does).
#pragma once

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace polystrate {

class Backoff {
 public:
  void Wait() {
    if (++turns_ < kYields) {
      sched_yield();
      return;
    }
    std::this_thread::sleep_for(sleep_);
    if (turns_ > kYields + kShortSleeps) sleep_ = std::min(sleep_ * 2, kLongest);
  }

 private:
  static constexpr int kYields = 200;
  static constexpr int kShortSleeps = 200;
  static constexpr std::chrono::microseconds kLongest{1000};
  int turns_ = 0;
  std::chrono::microseconds sleep_{20};
};

}  // namespace polystrate
