// What a rank says it does: through real groups whose ranks are threads.

#include "parallel/rank_activity.h"

#include <gtest/gtest.h>

#include <thread>
#include <type_traits>

#include "absl/time/clock.h"
#include "parallel/process_group.h"

namespace polystrate {
namespace {

static_assert(std::is_trivially_copyable_v<RankReport>);

Tensor Floats(std::vector<float>* values) {
  return Tensor(values->data(), DType::kFloat32, Device{}, {static_cast<int64_t>(values->size())});
}

double Milliseconds(int64_t ns) { return static_cast<double>(ns) * 1e-6; }

TEST(RankActivity, CallsAreNumberedInEachGroup) {
  std::vector<ProcessGroups> world = MakeThreadGroups({/*tp_size=*/2, /*pp_size=*/1});
  std::thread peer([&] {
    const Stream stream = Stream::Cpu(1);
    std::vector<float> x(3, 1.0f);
    for (int i = 0; i < 5; ++i) world[1].tp->AllReduceSum(stream, Floats(&x));
    SendBytes(*world[1].control, {1, 2, 3}, 0);
  });
  const Stream stream = Stream::Cpu(1);
  std::vector<float> x(3, 1.0f);
  for (int i = 0; i < 5; ++i) world[0].tp->AllReduceSum(stream, Floats(&x));
  RankReport report = world[0].activity->Read();
  EXPECT_EQ(report.operation, Operation::kAllReduce);
  EXPECT_EQ(report.group, GroupName::kTp);
  EXPECT_EQ(report.operation_number, 5u);
  EXPECT_FALSE(report.in_operation);
  EXPECT_EQ(RecvBytes(*world[0].control, 1).size(), 3u);
  report = world[0].activity->Read();
  EXPECT_EQ(report.operation, Operation::kReceive);
  EXPECT_EQ(report.group, GroupName::kControl);
  EXPECT_EQ(report.operation_number, 1u) << "looking for a message and taking it is one call";
  peer.join();
  EXPECT_EQ(world[1].activity->Read().operation, Operation::kSend);
}

TEST(RankActivity, AWaitingRankSaysForWhatAndSinceWhen) {
  std::vector<ProcessGroups> world = MakeThreadGroups({/*tp_size=*/1, /*pp_size=*/2});
  std::thread waiting([&] { EXPECT_EQ(RecvBytes(*world[1].control, 0).size(), 1u); });
  RankReport report;
  do {
    absl::SleepFor(absl::Milliseconds(5));
    report = world[1].activity->Read();
  } while (!report.in_operation || report.since_ns < 30'000'000);
  EXPECT_EQ(report.operation, Operation::kReceive);
  EXPECT_EQ(report.group, GroupName::kControl);
  EXPECT_EQ(Describe(report, 2).find("in receive 1 of control for 0."), 0u) << Describe(report, 2);
  SendBytes(*world[0].control, {7}, 1);
  waiting.join();
  report = world[1].activity->Read();
  EXPECT_FALSE(report.in_operation);
  EXPECT_EQ(Describe(report, 2).find("outside a step"), 0u) << Describe(report, 2);
}

// Work is what a step takes but for the wait for the stage before; a wait for a peer of the same
// stage is part of it.
TEST(RankActivity, BusyTimeLeavesTheWaitForTheStageBeforeOut) {
  std::vector<ProcessGroups> world = MakeThreadGroups({/*tp_size=*/1, /*pp_size=*/2});
  std::thread stage([&] {
    const Stream stream = Stream::Cpu(1);
    std::vector<float> x(2);
    world[1].activity->BeginStep(41, 2, 9);
    world[1].pp->Recv(stream, Floats(&x), 0);
    absl::SleepFor(absl::Milliseconds(60));
    world[1].activity->EndStep();
  });
  while (!world[1].activity->Read().in_operation) absl::SleepFor(absl::Milliseconds(1));
  absl::SleepFor(absl::Milliseconds(300));
  RankReport report = world[1].activity->Read();
  EXPECT_TRUE(report.in_step);
  EXPECT_LT(Milliseconds(report.busy_ns), 150) << "it waited all the time";
  EXPECT_EQ(report.steps, 0u);
  const std::string text = Describe(report, 2);
  EXPECT_NE(text.find("step 41, micro-batch 1 (2 sequences, 9 tokens)"), std::string::npos) << text;

  const Stream stream = Stream::Cpu(1);
  std::vector<float> x(2);
  world[0].pp->Send(stream, Floats(&x), 1);
  stage.join();
  report = world[1].activity->Read();
  EXPECT_GE(Milliseconds(report.busy_ns), 60);
  EXPECT_LT(Milliseconds(report.busy_ns), 250);
  EXPECT_FALSE(report.in_step);
  EXPECT_EQ(report.steps, 1u);
  EXPECT_EQ(report.tokens, 9u);
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(world[1].activity->Read().busy_ns, report.busy_ns) << "between steps it does nothing";
}

}  // namespace
}  // namespace polystrate
