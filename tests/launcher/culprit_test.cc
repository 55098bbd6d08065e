// Two stages of two ranks with plans 7 and 8 under way; one of them hangs, or none.

#include "launcher/culprit.h"

#include <gtest/gtest.h>

namespace polystrate {
namespace {

// A rank in step `step`, in call `number` of `group`; without a call, at work after it.
RankStatus Status(int rank, uint64_t step, Operation operation, GroupName group, uint64_t number,
                  bool in_operation, double since_seconds) {
  RankStatus status;
  status.rank = rank;
  status.pp_rank = rank / 2;
  status.tp_rank = rank % 2;
  status.host = "host-b";
  status.pid = 77;
  status.silent = absl::Seconds(0.1);
  status.report.step_id = step;
  status.report.num_seqs = 2;
  status.report.num_tokens = 40;
  status.report.in_step = true;
  status.report.in_operation = in_operation;
  status.report.operation = operation;
  status.report.group = group;
  status.report.operation_number = number;
  status.report.since_ns = static_cast<int64_t>(since_seconds * 1e9);
  return status;
}
RankStatus Computes(int rank, uint64_t step, double since) {
  return Status(rank, step, Operation::kAllReduce, GroupName::kTp, 95, false, since);
}
RankStatus Reduces(int rank, uint64_t step, uint64_t number, double since) {
  return Status(rank, step, Operation::kAllReduce, GroupName::kTp, number, true, since);
}
RankStatus WaitsForStage(int rank, uint64_t step, double since) {
  return Status(rank, step, Operation::kReceive, GroupName::kPp, 12, true, since);
}
// Done with step `step`.
RankStatus WaitsForPlan(int rank, uint64_t step, double since) {
  RankStatus status = Status(rank, step, Operation::kReceive, GroupName::kControl, 9, true, since);
  status.report.in_step = false;
  status.report.steps = step + 1;
  return status;
}
RankStatus WaitsForResult(int rank, uint64_t step, double since) {
  RankStatus status = Status(rank, step, Operation::kReceive, GroupName::kTokens, 9, true, since);
  status.report.in_step = false;
  status.report.steps = step + 1;
  return status;
}

const std::optional<PlansUnderWay> kPlans = PlansUnderWay{7, 8, absl::Seconds(9)};

TEST(Culprit, WhoComputesWhileTheOthersWaitForIt) {
  EXPECT_EQ(FindCulprit({Reduces(0, 7, 96, 9), Computes(1, 7, 8.9), WaitsForStage(2, 7, 9),
                         WaitsForStage(3, 7, 9)},
                        kPlans),
            1);
  EXPECT_EQ(FindCulprit({WaitsForResult(0, 8, 9), WaitsForPlan(1, 8, 9), Computes(2, 7, 3),
                         Computes(3, 7, 8)},
                        kPlans),
            3)
      << "of two, the one that has computed longer";
}

TEST(Culprit, WhoWaitsForWhatHasBeenSent) {
  EXPECT_EQ(FindCulprit({Reduces(0, 8, 96, 9), WaitsForPlan(1, 7, 8), WaitsForStage(2, 8, 9),
                         WaitsForStage(3, 8, 9)},
                        kPlans),
            1)
      << "it was sent plan 8";
  EXPECT_EQ(FindCulprit({WaitsForResult(0, 8, 9), WaitsForPlan(1, 8, 9), WaitsForStage(2, 7, 8),
                         Reduces(3, 7, 40, 9)},
                        kPlans),
            2)
      << "rank 0 is done with step 7, so its hidden state was sent";
  EXPECT_EQ(FindCulprit({WaitsForResult(0, 8, 8), WaitsForPlan(1, 8, 9), WaitsForPlan(2, 8, 9),
                         WaitsForPlan(3, 8, 9)},
                        kPlans),
            0)
      << "both results were sent";
}

TEST(Culprit, WhoIsAtAnEarlierCallOfItsStage) {
  EXPECT_EQ(FindCulprit({Reduces(0, 7, 96, 9), Reduces(1, 7, 95, 8), WaitsForStage(2, 7, 9),
                         WaitsForStage(3, 7, 9)},
                        kPlans),
            1);
}

TEST(Culprit, AFrozenRankWhateverItSaidLast) {
  RankStatus frozen = WaitsForPlan(3, 8, 0.1);
  frozen.silent = absl::Seconds(9);
  EXPECT_EQ(FindCulprit({WaitsForResult(0, 8, 9), WaitsForPlan(1, 8, 9), Computes(2, 7, 9), frozen},
                        kPlans),
            3);
}

TEST(Culprit, ARankIsDescribedInOneLine) {
  EXPECT_EQ(Describe(Reduces(3, 7, 96, 1.25), /*pp_size=*/2),
            "rank 3 (stage 1, tp 1) on host-b, pid 77: in all-reduce 96 of tp for 1.2 s, step 7, "
            "micro-batch 1 (2 sequences, 40 tokens)");
  RankStatus silent = Computes(1, 7, 1);
  silent.silent = absl::Seconds(4);
  EXPECT_EQ(Describe(silent, /*pp_size=*/1),
            "rank 1 (stage 0, tp 1) on host-b, pid 77: silent for 4.0 s, before that computing for "
            "1.0 s, step 7, micro-batch 0 (2 sequences, 40 tokens), last all-reduce 95 of tp");
}

}  // namespace
}  // namespace polystrate
