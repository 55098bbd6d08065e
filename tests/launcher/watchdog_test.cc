#include "launcher/watchdog.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/clock.h"
#include "parallel/group_guard.h"
#include "tests/testing/silent_group.h"

namespace polystrate {
namespace {

// Beats are all that it knows of time, so the test tells it.
class WatchdogTest : public ::testing::Test {
 protected:
  void Pass(double seconds) {
    for (double left = seconds; left > 0; left -= 0.25) {
      ended_ = watchdog_.OnBeat(absl::Seconds(0.25)) || ended_;
    }
  }

  Engine engine_{EngineOptions{.parallel = {/*tp_size=*/1, /*pp_size=*/2}}, /*tokenizer=*/nullptr};
  Watchdog watchdog_{
      engine_, {.soft = absl::Seconds(2), .hard = absl::Seconds(5)}, [](const absl::Status&) {}};
  bool ended_ = false;
};

TEST_F(WatchdogTest, AStepIsSlowThenDone) {
  engine_.ranks().PlanSent(4);
  engine_.ranks().PlanSent(5);
  testing::internal::CaptureStderr();
  Pass(1.75);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  Pass(1.0);
  const std::string slow = testing::internal::GetCapturedStderr();
  EXPECT_EQ(slow.find("serve: step 4 takes longer than --watchdog_soft 2s; DEGRADED\n"), 0u)
      << slow;
  EXPECT_NE(slow.find("rank 1 (stage 1, tp 0)"), std::string::npos) << slow;
  engine_.ranks().PlanDone();
  testing::internal::CaptureStderr();
  Pass(1.75);  // the next has taken longer in truth, but it could not begin before
  EXPECT_EQ(testing::internal::GetCapturedStderr().find("serve: step 4 is done after 2.5s"), 0u);
  EXPECT_FALSE(ended_);
  EXPECT_FALSE(watchdog_.engine_is_lost());
}

TEST_F(WatchdogTest, AStepIsHung) {
  engine_.ranks().PlanSent(4);
  testing::internal::CaptureStderr();
  Pass(5.0);
  EXPECT_FALSE(ended_);
  Pass(0.5);
  EXPECT_TRUE(ended_);
  EXPECT_TRUE(watchdog_.engine_is_lost());
  const std::string hung = testing::internal::GetCapturedStderr();
  EXPECT_NE(hung.find("step 4 takes longer than --watchdog_hard 5s; the culprit is rank "),
            std::string::npos)
      << hung;
}

TEST_F(WatchdogTest, AnIdleEngineAndShortStepsAreFine) {
  Pass(100);
  for (uint64_t step = 0; step < 50; ++step) {
    engine_.ranks().PlanSent(step);
    Pass(1.0);
    engine_.ranks().PlanDone();
  }
  EXPECT_FALSE(ended_);
}

// It takes as long as the weights take.
TEST_F(WatchdogTest, ADrainBeforeTheStartHasNoEnd) {
  engine_.BeginDrain(absl::ZeroDuration());
  Pass(100);
  EXPECT_FALSE(ended_);
}

// A group over GPUs, of which another thread learns that it has failed.
class FailedGroup final : public SilentGroup {
 public:
  absl::Status Health() override { return absl::UnavailableError("a peer is gone"); }
};

TEST_F(WatchdogTest, AGroupThatFailsLosesTheEngineAtTheNextBeat) {
  testing::internal::CaptureStderr();
  ProcessGroups groups = MakeSelfGroups();
  groups.tp = std::make_unique<FailedGroup>();
  std::atomic<bool> told = false;
  const auto tell = [this](const absl::Status& fault) { watchdog_.OnGroupFault(fault); };
  GroupGuard guard(groups, tell, [&told] { told = true; });
  for (int i = 0; i < 1000 && !told; ++i) absl::SleepFor(absl::Milliseconds(10));
  ASSERT_TRUE(told);
  EXPECT_FALSE(watchdog_.engine_is_lost());
  Pass(0.25);
  EXPECT_TRUE(ended_);
  EXPECT_TRUE(watchdog_.engine_is_lost());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "serve: rank 0: a peer is gone\n");
}

TEST_F(WatchdogTest, OneReasonIsGivenForTheEnd) {
  testing::internal::CaptureStderr();
  watchdog_.OnLost({1, "host-b", 77, "its process has ended"});
  watchdog_.OnLauncherKills();
  Pass(0.5);
  EXPECT_TRUE(ended_);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.find("serve: lost rank 1 "), 0u) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

}  // namespace
}  // namespace polystrate
