// Histogram: how many observed values lie in each of fixed intervals, and their sum. A plain value:
// counting allocates nothing and takes no lock, so one thread counts and others get copies.
#pragma once

#include <array>
#include <cstdint>

#include "absl/types/span.h"

namespace polystrate {

class Histogram {
 public:
  static constexpr size_t kMaxBounds = 32;

  // Interval i holds values in (bounds[i - 1], bounds[i]], one more those above the last bound.
  // `bounds` ascend, are at most kMaxBounds, and outlive the histogram and its copies.
  explicit Histogram(absl::Span<const double> bounds);

  // NaN would make the sum useless for ever and is a bug.
  void Observe(double value, int64_t times = 1);

  absl::Span<const double> bounds() const { return bounds_; }
  // Of interval i in [0, bounds().size()]; not cumulative.
  int64_t count_in(size_t i) const { return counts_[i]; }
  int64_t count() const { return count_; }
  double sum() const { return sum_; }

 private:
  absl::Span<const double> bounds_;
  std::array<int64_t, kMaxBounds + 1> counts_{};
  int64_t count_ = 0;
  double sum_ = 0.0;
};

}  // namespace polystrate
