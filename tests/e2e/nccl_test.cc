// Groups over NCCL with several ranks (nccl_ranks.cc), which may share one GPU; and the same on
// emulated GPUs.

#include <gtest/gtest.h>

#include "kernels/core/device.h"
#include "parallel/nccl_communicator.h"
#include "tests/testing/emulated.h"
#include "tests/testing/places.h"
#include "tests/testing/process.h"

namespace polystrate {
namespace {

class NcclRanks : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (NcclVersion().empty()) GTEST_SKIP() << "built without NCCL";
    if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
  }
  void Run(const std::string& mode) {
    // All of these fit the time that tools/gpu_check gives a test program, if they all hang.
    Run({BuiltProgram("nccl_ranks"), mode}, absl::Seconds(24));
  }
  void Run(const CommandLine& command, absl::Duration timeout) {
    const CommandResult result = RunCommand(Mpirun(GetParam(), command), timeout);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    for (int rank = 0; rank < GetParam(); ++rank) {
      EXPECT_NE(result.out.find("rank " + std::to_string(rank) + " done"), std::string::npos);
    }
  }
};

TEST_P(NcclRanks, SumGatherAndHandOn) { Run("check"); }
TEST_P(NcclRanks, AnAllReduceThatHangsIsEnded) { Run("hang"); }
TEST_P(NcclRanks, ARankThatDoesNotJoinIsATimeOut) { Run("late"); }

INSTANTIATE_TEST_SUITE_P(Sizes, NcclRanks, ::testing::Values(2, 3));

using NcclRelay = NcclRanks;

TEST_P(NcclRelay, AStageReceivesThoughItHasNotSent) { Run("relay"); }

INSTANTIATE_TEST_SUITE_P(Size, NcclRelay, ::testing::Values(3));

class EmulatedNcclRanks : public NcclRanks {
 protected:
  void SetUp() override {
    if (!EmulatorIsBuilt()) GTEST_SKIP() << "not built";
  }
  void RunEmulated(const std::string& mode) {
    Run(OnEmulatedGpus(GetParam(), "nccl_ranks_emulated", {mode}), absl::Minutes(2));
  }
};

TEST_P(EmulatedNcclRanks, SumGatherAndHandOn) { RunEmulated("check"); }
TEST_P(EmulatedNcclRanks, AnAllReduceThatHangsIsEnded) { RunEmulated("hang"); }
TEST_P(EmulatedNcclRanks, ARankThatDoesNotJoinIsATimeOut) { RunEmulated("late"); }

INSTANTIATE_TEST_SUITE_P(Sizes, EmulatedNcclRanks, ::testing::Values(2, 3));

using EmulatedNcclRelay = EmulatedNcclRanks;

TEST_P(EmulatedNcclRelay, AStageReceivesThoughItHasNotSent) { RunEmulated("relay"); }

INSTANTIATE_TEST_SUITE_P(Size, EmulatedNcclRelay, ::testing::Values(3));

}  // namespace
}  // namespace polystrate
