#include "launcher/load_arrivals.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace polystrate {
namespace {

struct Gaps {
  double mean = 0;
  double variation = 0;         // standard deviation over mean
  double share_above_mean = 0;  // of the gaps
};

Gaps Measure(const std::vector<double>& arrivals) {
  Gaps gaps;
  double squares = 0;
  const auto n = static_cast<double>(arrivals.size());
  const double mean = arrivals.back() / n;
  double before = 0;
  for (const double arrival : arrivals) {
    const double gap = arrival - before;
    EXPECT_GE(gap, 0.0);
    squares += (gap - mean) * (gap - mean);
    gaps.share_above_mean += gap > mean ? 1 / n : 0;
    before = arrival;
  }
  gaps.mean = mean;
  gaps.variation = std::sqrt(squares / n) / mean;
  return gaps;
}

TEST(LoadArrivalsTest, GapsHaveTheRateAndTheVariationThatWereAskedFor) {
  constexpr int64_t kMany = 200'000;
  for (const double burstiness : {0.25, 1.0, 4.0, 100.0}) {
    const Gaps gaps = Measure(DrawArrivals(kMany, {50.0, burstiness, /*seed=*/3}));
    EXPECT_NEAR(gaps.mean, 1.0 / 50.0, 1e-9) << burstiness;
    EXPECT_NEAR(gaps.variation * std::sqrt(burstiness), 1.0, 0.02) << burstiness;
    // Poisson: the share of gaps longer than the mean is 1/e.
    if (burstiness == 1.0) {
      EXPECT_NEAR(gaps.share_above_mean, std::exp(-1.0), 0.005);
    }
  }
}

TEST(LoadArrivalsTest, AShortRunHasTheRateTooAndASeedIsRepeatable) {
  const ArrivalOptions options{8.0, 1.0, /*seed=*/7};
  const std::vector<double> arrivals = DrawArrivals(5, options);
  EXPECT_TRUE(std::is_sorted(arrivals.begin(), arrivals.end()));
  EXPECT_DOUBLE_EQ(arrivals.back(), 5.0 / 8.0);
  EXPECT_EQ(DrawArrivals(5, options), arrivals);
  EXPECT_NE(DrawArrivals(5, {8.0, 1.0, /*seed=*/8}), arrivals);
}

TEST(LoadArrivalsTest, AnInfiniteRateSendsAllAtOnce) {
  EXPECT_EQ(DrawArrivals(3, {}), std::vector<double>(3, 0.0));
  EXPECT_TRUE(DrawArrivals(0, {2.0, 1.0, 0}).empty());
}

}  // namespace
}  // namespace polystrate
