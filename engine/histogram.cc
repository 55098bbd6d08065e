#include "engine/histogram.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace polystrate {

Histogram::Histogram(absl::Span<const double> bounds) : bounds_(bounds) {
  CHECK_LE(bounds.size(), kMaxBounds);
  CHECK(std::is_sorted(bounds.begin(), bounds.end()));
}

void Histogram::Observe(double value, int64_t times) {
  CHECK(value == value);
  const auto* bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  counts_[static_cast<size_t>(bound - bounds_.begin())] += times;
  count_ += times;
  sum_ += value * static_cast<double>(times);
}

}  // namespace polystrate
