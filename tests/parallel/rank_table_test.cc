#include "parallel/rank_table.h"

#include <gtest/gtest.h>

#include "absl/time/clock.h"

namespace polystrate {
namespace {

TEST(RankTable, KnowsWhereRanksAre) {
  RankTable table({/*tp_size=*/2, /*pp_size=*/3});
  table.SetPlace(5, "host-b", 1234);
  const std::vector<RankStatus> ranks = table.Read();
  ASSERT_EQ(ranks.size(), 6u);
  EXPECT_EQ(ranks[5].rank, 5);
  EXPECT_EQ(ranks[5].tp_rank, 1);
  EXPECT_EQ(ranks[5].pp_rank, 2);
  EXPECT_EQ(ranks[5].host, "host-b");
  EXPECT_EQ(ranks[5].pid, 1234);
  EXPECT_EQ(table.Read(4).host, "");
  EXPECT_EQ(ranks[5].bubble_share(), 0.0) << "nothing has been asked of it yet";
}

// Time counts while a plan is under way, whichever: two that overlap are not counted twice, and an
// idle engine has no bubble.
TEST(RankTable, TheBubbleIsTimeInWhichOthersWork) {
  RankTable table({/*tp_size=*/1, /*pp_size=*/2});
  EXPECT_FALSE(table.plans().has_value());
  absl::SleepFor(absl::Milliseconds(50));
  const absl::Time begin = absl::Now();
  table.PlanSent(7);
  table.PlanSent(8);
  absl::SleepFor(absl::Milliseconds(40));
  ASSERT_TRUE(table.plans().has_value());
  EXPECT_EQ(table.plans()->oldest_step_id, 7u);
  EXPECT_EQ(table.plans()->newest_step_id, 8u);
  EXPECT_GE(table.plans()->oldest_age, absl::Milliseconds(40));
  table.PlanDone();
  EXPECT_EQ(table.plans()->oldest_step_id, 8u);
  absl::SleepFor(absl::Milliseconds(40));
  table.PlanDone();
  const absl::Duration in_flight = absl::Now() - begin;
  EXPECT_FALSE(table.plans().has_value());
  absl::SleepFor(absl::Milliseconds(50));

  RankReport report;
  report.busy_ns = 20'000'000;
  table.Update(1, report);
  const RankStatus status = table.Read(1);
  EXPECT_GE(status.in_flight, absl::Milliseconds(80));
  EXPECT_LE(status.in_flight, in_flight);
  EXPECT_EQ(status.waiting(), status.in_flight - absl::Milliseconds(20));
  EXPECT_NEAR(status.bubble_share(), 1.0 - 20.0 / absl::ToDoubleMilliseconds(status.in_flight),
              1e-9);
}

}  // namespace
}  // namespace polystrate
