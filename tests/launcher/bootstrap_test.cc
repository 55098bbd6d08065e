#include "launcher/bootstrap.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace polystrate {
namespace {

double Identity(double mean) { return mean; }

// Means of random.Random(0).choices(range(10), k=10), twice, and of the same with seed 1.
TEST(BootstrapTest, DrawsAsCPythonDoes) {
  std::vector<double> values(10);
  for (size_t i = 0; i < 10; ++i) values[i] = static_cast<double>(i);
  std::vector<double> means;
  BootstrapStandardError(
      values,
      [&](double mean) {
        means.push_back(mean);
        return mean;
      },
      2000);
  ASSERT_EQ(means.size(), 2000u);
  EXPECT_NEAR(means[0], 4.9, 1e-12);
  EXPECT_NEAR(means[1], 6.6, 1e-12);
  EXPECT_NEAR(means[1000], 3.9, 1e-12);
}

// By the central limit theorem: of a mean, s / sqrt n; of its exponential, that times the slope.
TEST(BootstrapTest, ApproachesTheClosedForms) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal(-2.0, 1.5);
  std::vector<double> values(2000);
  for (double& value : values) value = normal(random);
  const double of_mean = StandardDeviation(values) / std::sqrt(2000.0);
  EXPECT_NEAR(BootstrapStandardError(values, Identity, 5000) / of_mean, 1.0, 0.04);
  const double perplexity = std::exp(-Mean(values));
  const double of_perplexity = BootstrapStandardError(
      values, [](double mean) { return std::exp(-mean); }, 5000);
  EXPECT_NEAR(of_perplexity / (perplexity * of_mean), 1.0, 0.05);
}

TEST(BootstrapTest, ConstantsHaveNoError) {
  const std::vector<double> values(5, -3.0);
  EXPECT_EQ(BootstrapStandardError(values, Identity, 1000), 0.0);
  EXPECT_EQ(StandardDeviation(values), 0.0);
}

}  // namespace
}  // namespace polystrate
