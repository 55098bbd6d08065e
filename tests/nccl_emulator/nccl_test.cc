// Groups over NCCL whose ranks are threads on emulated GPUs: the contract, and what is said when a
// peer is late, hangs or is gone. (Over NCCL itself: tests/e2e/nccl_test.cc.)

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <cstdlib>
#include <functional>
#include <thread>

#include "absl/time/clock.h"
#include "kernels/core/step_graph.h"
#include "parallel/gpu_groups.h"
#include "parallel/nccl_communicator.h"
#include "tests/testing/communicator_checks.h"

namespace polystrate {
namespace {

using ::testing::HasSubstr;

// A call runs when it is made: on streams that run as late as they may, a rank's thread would wait
// in its first read for a peer's, and nothing here could be looked at while a call is under way.
const bool kLaunchesBlock = setenv("CUDA_LAUNCH_BLOCKING", "1", 1) == 0;

// Runs body(rank, its GPU's stream) on a thread for each rank.
void OnRanks(int size, const std::function<void(int, const Stream&)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&body, rank] {
      const absl::StatusOr<Stream> stream = Stream::Cuda(0);
      ASSERT_TRUE(stream.ok()) << stream.status();
      body(rank, *stream);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::unique_ptr<Communicator> Join(std::unique_ptr<Communicator> host, absl::Duration timeout) {
  auto group = MakeNcclCommunicator(std::move(host), {.name = "tp", .timeout = timeout});
  EXPECT_TRUE(group.ok()) << group.status();
  return group.ok() ? *std::move(group) : nullptr;
}

// Rank 0 of a group of two, of which the other has joined and does no more. A call that fails does
// not return, so a thread that makes one is left alone, and what it uses with it.
class Deserted {
 public:
  explicit Deserted(absl::Duration timeout) {
    auto hosts = MakeThreadCommunicators(2);
    OnRanks(2,
            [&](int rank, const Stream&) { ranks_[rank] = Join(std::move(hosts[rank]), timeout); });
  }
  Communicator& group() { return *ranks_[0]; }
  void SumForEver() {
    std::thread([this] {
      const absl::StatusOr<Stream> stream = Stream::Cuda(0);
      const absl::StatusOr<Buffer> buffer = Buffer::Allocate(stream->device(), 400);
      group().AllReduceSum(*stream,
                           Tensor(buffer->data(), DType::kFloat32, stream->device(), {100}));
      ADD_FAILURE() << "an all-reduce that failed has returned";
    }).detach();
  }
  absl::Status WaitForFault() {
    absl::Status health;
    for (int i = 0; i < 500 && (health = group().Health()).ok(); ++i) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    return health;
  }

 private:
  std::unique_ptr<Communicator> ranks_[2];
};

class NcclGroup : public ::testing::TestWithParam<int> {};

TEST_P(NcclGroup, KeepsTheContractOfACommunicator) {
  auto hosts = MakeThreadCommunicators(GetParam());
  OnRanks(GetParam(), [&](int rank, const Stream& stream) {
    const auto group = Join(std::move(hosts[rank]), absl::Seconds(20));
    ASSERT_NE(group, nullptr);
    EXPECT_EQ(CheckCollectives(stream, *group), "");
    EXPECT_EQ(CheckRecordedAllReduce(stream, *group), "");
    EXPECT_EQ(CheckChain(stream, *group), "");
    EXPECT_EQ(CheckCommunicator(Stream::Cpu(1), *group), "");
    EXPECT_TRUE(group->Health().ok()) << group->Health();
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, NcclGroup, ::testing::Values(1, 2, 3));

TEST(UseNccl, GivesStagesAndTheirRanksGroupsOverNccl) {
  const ParallelConfig config{2, 3};
  std::vector<ProcessGroups> groups = MakeThreadGroups(config);
  OnRanks(config.world_size(), [&](int rank, const Stream& stream) {
    const Topology topology(config, rank);
    ProcessGroups& mine = groups[rank];
    ControlChannel control(topology, mine);
    const absl::Status status = UseNccl(control, absl::Seconds(20), &mine);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(mine.tp->rank(), topology.tp_rank());
    EXPECT_EQ(mine.pp->rank(), topology.pp_rank());
    EXPECT_EQ(CheckCollectives(stream, *mine.tp), "");
    EXPECT_EQ(CheckChain(stream, *mine.pp), "");
  });
}

TEST(NcclFaults, ARankThatDoesNotJoinIsATimeOutForAll) {
  auto hosts = MakeThreadCommunicators(3);
  OnRanks(3, [&](int rank, const Stream&) {
    if (rank == 2) absl::SleepFor(absl::Seconds(2));
    const absl::Status status =
        MakeNcclCommunicator(std::move(hosts[rank]), {.name = "tp", .timeout = absl::Seconds(1)})
            .status();
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("joining takes longer than 1s (--nccl_timeout)"));
  });
}

TEST(NcclFaults, ACallThatDoesNotBeginIsATimeOut) {
  auto* deserted = new Deserted(absl::Seconds(1));
  deserted->SumForEver();
  const absl::Status fault = deserted->WaitForFault();
  EXPECT_EQ(fault.code(), absl::StatusCode::kDeadlineExceeded) << fault;
  EXPECT_THAT(std::string(fault.message()),
              HasSubstr("NCCL, group tp, rank 0 of 2: all-reduce takes longer than 1s"));
  deserted->group().Abort();
}

TEST(NcclFaults, AnAllReduceThatHangsIsEnded) {
  auto* deserted = new Deserted(absl::Seconds(30));
  deserted->SumForEver();
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_TRUE(deserted->group().Health().ok());
  deserted->group().Abort();
  EXPECT_EQ(deserted->group().Health().code(), absl::StatusCode::kAborted);
}

// What the guard of a rank relies on, whose main thread owns the graphs and is stuck.
TEST(NcclFaults, AGroupWhoseCallsAGraphHoldsIsEndedAllTheSame) {
  const absl::StatusOr<Stream> stream = Stream::Cuda(0);
  const auto group = Join(MakeSelfCommunicator(), absl::Seconds(20));
  const absl::StatusOr<Buffer> buffer = Buffer::Allocate(stream->device(), 400);
  const Tensor x(buffer->data(), DType::kFloat32, stream->device(), {100});
  const auto sum = [&] { group->AllReduceSum(*stream, x); };
  sum();
  const StepGraph graph(*stream, sum);
  const absl::Time begin = absl::Now();
  group->Abort();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_EQ(group->Health().code(), absl::StatusCode::kAborted);
}

TEST(NcclFaults, APeerThatIsGoneIsToldWithNcclsWords) {
  auto* deserted = new Deserted(absl::Seconds(30));
  EXPECT_TRUE(deserted->group().Health().ok());
  FailEmulatedNccl();
  const absl::Status fault = deserted->WaitForFault();
  EXPECT_EQ(fault.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(fault.message(),
            "NCCL, group tp, rank 0 of 2: what was enqueued failed: remote process exited or there "
            "was a network error: no more is known (NCCL_DEBUG=WARN says more)");
}

}  // namespace
}  // namespace polystrate
