#include "launcher/load_metrics.h"

#include <gtest/gtest.h>

#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

constexpr int64_t Ns(double seconds) { return static_cast<int64_t>(seconds * 1e9 + 0.5); }

// Values from numpy 2 (percentile, mean, std, median with their defaults).
TEST(LoadMetricsTest, DistributionsAreNumpys) {
  const Distribution odd =
      Distribute({3.5, 0.25, 12.0, 7.75, 1.0, 100.5, 8.125}, {0, 1, 25, 50, 90, 99, 99.9, 100});
  EXPECT_NEAR(odd.mean, 19.017857142857142, 1e-12);
  EXPECT_NEAR(odd.std, 33.49176528397294, 1e-12);
  EXPECT_EQ(odd.median, 7.75);
  const double expected[] = {0.25, 0.295, 2.25, 7.75, 47.4, 95.19, 99.969, 100.5};
  ASSERT_EQ(odd.percentiles.size(), 8u);
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(odd.percentiles[i], expected[i], 1e-12) << i;

  const Distribution even = Distribute({5.0, 1.0, 2.0, 9.0}, {10, 99});
  EXPECT_EQ(even.median, 3.5);
  EXPECT_NEAR(even.std, 3.112474899497183, 1e-12);
  EXPECT_NEAR(even.percentiles[0], 1.3, 1e-12);
  EXPECT_NEAR(even.percentiles[1], 8.88, 1e-12);

  const Distribution one = Distribute({4.0}, {99});
  EXPECT_EQ(one.mean, 4.0);
  EXPECT_EQ(one.std, 0.0);
  EXPECT_EQ(one.percentiles[0], 4.0);
  EXPECT_EQ(Distribute({}, {50, 99}).percentiles, std::vector<double>(2, 0.0));
}

// Two that completed, the first with a message of two tokens, and one that failed half way.
LoadRun SomeRun() {
  LoadRun run;
  run.begin_ns = Ns(1.0);
  run.end_ns = Ns(3.5);
  LoadOutcome several;
  several.start_ns = Ns(1.0);
  several.end_ns = Ns(2.61);
  several.arrivals = {{Ns(1.5), 1}, {Ns(1.7), 2}, {Ns(2.6), 1}};
  several.prompt_tokens = 10;
  several.completion_tokens = 4;
  several.cached_prompt_tokens = 8;
  LoadOutcome one;
  one.index = 1;
  one.start_ns = Ns(1.2);
  one.end_ns = Ns(3.25);
  one.arrivals = {{Ns(3.2), 1}};
  one.prompt_tokens = 7;
  one.completion_tokens = 1;
  LoadOutcome failed;
  failed.index = 2;
  failed.start_ns = Ns(0.5);  // must not shift the seconds of the peaks
  failed.end_ns = Ns(3.5);
  failed.arrivals = {{Ns(1.3), 500}};
  failed.status = absl::ResourceExhaustedError("the queue is full");
  run.outcomes = {several, one, failed};
  return run;
}

TEST(LoadMetricsTest, TimesFollowTheDefinitions) {
  const LoadRun run = SomeRun();
  const RequestTimes several = TimesOf(run.outcomes[0]);
  EXPECT_NEAR(several.ttft, 0.5, 1e-9);
  EXPECT_NEAR(several.e2el, 1.6, 1e-9);
  EXPECT_NEAR(several.tpot, 1.1 / 3, 1e-9);
  ASSERT_EQ(several.itls.size(), 2u);
  EXPECT_NEAR(several.itls[0], 0.2, 1e-9);
  EXPECT_NEAR(several.itls[1], 0.9, 1e-9);
  const RequestTimes one = TimesOf(run.outcomes[1]);
  EXPECT_NEAR(one.ttft, 2.0, 1e-9);
  EXPECT_NEAR(one.e2el, 2.0, 1e-9);
  EXPECT_EQ(one.tpot, 0.0);
  LoadOutcome none;
  none.end_ns = Ns(0.25);
  EXPECT_NEAR(TimesOf(none).ttft, 0.25, 1e-9);
}

TEST(LoadMetricsTest, OnlyWhatCompletedCounts) {
  const LoadMetrics metrics = ComputeLoadMetrics(SomeRun(), {50.0}, std::nullopt);
  EXPECT_NEAR(metrics.duration, 2.5, 1e-9);
  EXPECT_EQ(metrics.completed, 2);
  EXPECT_EQ(metrics.failed, 1);
  EXPECT_EQ(metrics.total_input_tokens, 17);
  EXPECT_EQ(metrics.total_output_tokens, 5);
  EXPECT_EQ(metrics.cached_prompt_tokens, 8);
  EXPECT_NEAR(metrics.request_throughput, 0.8, 1e-9);
  EXPECT_FALSE(metrics.request_goodput.has_value());
  EXPECT_NEAR(metrics.output_throughput, 2.0, 1e-9);
  EXPECT_NEAR(metrics.total_token_throughput, 8.8, 1e-9);
  EXPECT_EQ(metrics.max_output_tokens_per_s, 3.0);  // within the first second after 1.0
  EXPECT_EQ(metrics.max_concurrent_requests, 2);
  EXPECT_NEAR(metrics.ttft_ms.mean, 1250.0, 1e-6);
  EXPECT_NEAR(metrics.e2el_ms.median, 1800.0, 1e-6);
  EXPECT_NEAR(metrics.tpot_ms.mean, 1100.0 / 3, 1e-6);  // the one with a second token
  EXPECT_NEAR(metrics.itl_ms.percentiles[0], 550.0, 1e-6);
}

TEST(LoadMetricsTest, GoodputCountsWhatMeetsEveryLimit) {
  const auto goodput = [](const std::vector<std::string>& parts) {
    return *ComputeLoadMetrics(SomeRun(), {}, *ParseGoodput(parts)).request_goodput;
  };
  EXPECT_NEAR(goodput({"ttft:3000"}), 2 / 2.5, 1e-9);
  EXPECT_NEAR(goodput({"ttft:600", "tpot:400"}), 1 / 2.5, 1e-9);
  EXPECT_NEAR(goodput({"tpot:300"}), 1 / 2.5, 1e-9);  // the one-token request has none to miss
  EXPECT_NEAR(goodput({"e2el:1700.5"}), 1 / 2.5, 1e-9);
  EXPECT_EQ(goodput({"ttft:600", "e2el:1000"}), 0.0);
  for (const char* wrong : {"itl:5", "ttft", "ttft:", "ttft:x", "tpot:-1", "ttft:nan"}) {
    EXPECT_TRUE(Fails(ParseGoodput({wrong}).status(), absl::StatusCode::kInvalidArgument, wrong));
  }
}

TEST(LoadMetricsTest, NothingCompletedIsAllZeros) {
  LoadRun run = SomeRun();
  for (LoadOutcome& outcome : run.outcomes) outcome.status = absl::UnavailableError("gone");
  const LoadMetrics metrics = ComputeLoadMetrics(run, {99.0}, Goodput());
  EXPECT_EQ(metrics.failed, 3);
  EXPECT_EQ(metrics.request_throughput, 0.0);
  EXPECT_EQ(metrics.max_concurrent_requests, 0);
  EXPECT_EQ(metrics.ttft_ms.percentiles, std::vector<double>(1, 0.0));
  EXPECT_EQ(ComputeLoadMetrics(LoadRun(), {}, std::nullopt).duration, 0.0);
}

}  // namespace
}  // namespace polystrate
