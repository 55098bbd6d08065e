// Collectives and messages over the groups that live in one process. Values are small integers, so
// sums are exact whatever their order. (The same over MPI: tests/e2e/mpi_test.cc.)

#include "parallel/communicator.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "parallel/control_channel.h"
#include "parallel/pinned_communicator.h"
#include "parallel/process_group.h"
#include "tests/testing/communicator_checks.h"

namespace polystrate {
namespace {

// Runs body(rank) on a thread for each rank.
void OnRanks(int size, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
}

class ThreadGroup : public ::testing::TestWithParam<int> {};

TEST_P(ThreadGroup, KeepsTheContractOfACommunicator) {
  auto group = MakeThreadCommunicators(GetParam());
  OnRanks(GetParam(),
          [&](int rank) { EXPECT_EQ(CheckCommunicator(Stream::Cpu(1), *group[rank]), ""); });
}

TEST_P(ThreadGroup, ControlChannelAgreesOnTheFirstError) {
  const ParallelConfig config{GetParam(), 1};
  auto groups = MakeThreadGroups(config);
  OnRanks(GetParam(), [&](int rank) {
    ControlChannel control(Topology(config, rank), groups[rank]);
    EXPECT_EQ(CheckControlChannel(control, Topology(config, rank)), "");
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadGroup, ::testing::Values(1, 2, 3, 4, 7));

TEST(SelfGroup, KeepsTheContractOfACommunicator) {
  EXPECT_EQ(CheckCommunicator(Stream::Cpu(1), *MakeSelfCommunicator()), "");
}

// Tensors of a GPU, through page-locked memory; the parameter is the number of ranks.
class PinnedGroup : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
  }
  static void Check(std::unique_ptr<Communicator> host) {
    const auto pinned = MakePinnedCommunicator(std::move(host));
    const absl::StatusOr<Stream> gpu = Stream::Cuda(0);
    ASSERT_TRUE(gpu.ok()) << gpu.status();
    EXPECT_EQ(CheckCommunicator(*gpu, *pinned), "");
    EXPECT_EQ(CheckRecordedAllReduce(*gpu, *pinned), "");
    EXPECT_EQ(CheckCommunicator(Stream::Cpu(1), *pinned), "");
  }
};

TEST_P(PinnedGroup, KeepsTheContractOfACommunicator) {
  if (GetParam() == 1) Check(MakeSelfCommunicator());
  auto group = MakeThreadCommunicators(GetParam());
  OnRanks(GetParam(), [&](int rank) { Check(std::move(group[rank])); });
}

INSTANTIATE_TEST_SUITE_P(cuda, PinnedGroup, ::testing::Values(1, 2, 3, 4));

TEST(LaunchInfo, AProcessStartedByHandIsAWorldOfOne) {
  const LaunchInfo info = ReadLaunchInfo();
  EXPECT_EQ(info.world_size, 1);
  EXPECT_FALSE(info.launched);
}

}  // namespace
}  // namespace polystrate
