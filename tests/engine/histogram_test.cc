#include "engine/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/engine_stats.h"

namespace polystrate {
namespace {

TEST(Histogram, CountsAValueUpToAndWithItsBound) {
  constexpr double kBounds[] = {1.0, 2.5, 10.0};
  Histogram histogram(kBounds);
  for (const double value : {0.0, -3.0, 1.0, 1.0000001, 2.5, 2.6, 10.0, 10.1}) {
    histogram.Observe(value);
  }
  histogram.Observe(5.0, 4);
  EXPECT_EQ(histogram.count_in(0), 3);
  EXPECT_EQ(histogram.count_in(1), 2);
  EXPECT_EQ(histogram.count_in(2), 6);
  EXPECT_EQ(histogram.count_in(3), 1);
  EXPECT_EQ(histogram.count(), 12);
  EXPECT_NEAR(histogram.sum(), 24.2000001 + 20.0, 1e-9);
}

TEST(Histogram, ACopyStandsStill) {
  EngineStats stats;
  stats.queue_time.Observe(0.5);
  const EngineStats copy = stats;
  stats.queue_time.Observe(0.5);
  EXPECT_EQ(copy.queue_time.count(), 1);
  EXPECT_EQ(stats.queue_time.count(), 2);
}

TEST(Histogram, AgreesWithCountingByHand) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> draw(-3.0, 3.0);
  for (const auto bounds : {FirstTokenBounds(), TokenGapBounds(), RequestBounds()}) {
    Histogram histogram(bounds);
    std::vector<double> values(2000);
    for (double& value : values) histogram.Observe(value = draw(random));
    int64_t cumulative = 0;
    for (size_t i = 0; i < bounds.size(); ++i) {
      cumulative += histogram.count_in(i);
      const auto below = std::count_if(values.begin(), values.end(),
                                       [&](double value) { return value <= bounds[i]; });
      EXPECT_EQ(cumulative, below) << bounds[i];
    }
  }
}

// A dashboard that names a bucket of vLLM's finds it.
TEST(EngineStats, HoldsTheBoundsThatDashboardsName) {
  const auto holds = [](absl::Span<const double> bounds, std::initializer_list<double> wanted) {
    return std::includes(bounds.begin(), bounds.end(), wanted.begin(), wanted.end());
  };
  EXPECT_TRUE(holds(FirstTokenBounds(),
                    {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                     1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0}));
  EXPECT_TRUE(holds(TokenGapBounds(), {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                       0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0}));
  EXPECT_TRUE(holds(RequestBounds(),
                    {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
                     30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0}));
}

}  // namespace
}  // namespace polystrate
