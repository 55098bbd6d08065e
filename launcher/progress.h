// Progress: lines on standard error for what takes longer than two seconds, at most one a second.
#pragma once

#include <cstdio>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace polystrate {

class Progress {
 public:
  // Nothing is ever printed unless `shown`: one rank speaks for all.
  Progress(std::string what, bool shown)
      : what_(std::move(what)), shown_(shown), next_(absl::Now() + absl::Seconds(2)) {}

  // `done` is the share that is done, [0, 1].
  void Update(double done) {
    if (!shown_ || absl::Now() < next_) return;
    next_ = absl::Now() + absl::Seconds(1);
    std::fprintf(stderr, "%s: %.0f%%\n", what_.c_str(), 100.0 * done);
  }

 private:
  const std::string what_;
  const bool shown_;
  absl::Time next_;
};

}  // namespace polystrate
