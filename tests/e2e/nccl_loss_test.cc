// What becomes of an engine whose ranks speak over NCCL when a group fails, a rank dies or hangs:
// from the communicator to the launcher's exit code, with real processes on emulated GPUs.

#include <gmock/gmock.h>

#include "tests/e2e/lifecycle.h"
#include "tests/testing/emulated.h"

namespace polystrate {
namespace {

class NcclLoss : public Lifecycle {
 protected:
  void SetUp() override {
    if (!EmulatorIsBuilt()) GTEST_SKIP() << "not built";
  }

  // SERVING over NCCL, each rank with a GPU of its own.
  void StartOverNccl(int tp, int pp, const CommandLine& more = {}) {
    CommandLine flags = Serve(
        {"--device", "cuda", "--comm", "nccl", "--tp", absl::StrCat(tp), "--pp", absl::StrCat(pp)});
    flags.insert(flags.end(), more.begin(), more.end());
    CommandLine command =
        OnEmulatedGpus(tp * pp, "polystrate_emulated", {flags.begin() + 1, flags.end()});
    command.insert(command.begin() + 1, "POLYSTRATE_EMULATED_NCCL_FAULT=" + dir_.File("fault"));
    Launch(Mpirun(tp * pp, command));
    ASSERT_TRUE(engine_->WaitForOutput("SERVING", kPatience)) << engine_->Err();
    ExpectSaid("tensors go over NCCL: every rank has a GPU of its own");
  }
  // NCCL tells this rank, and no other, that a peer is gone.
  void Fail(int rank) const { WriteFile(dir_.File(absl::StrCat("fault.", rank)), ""); }
};

TEST_F(NcclLoss, ADrainedEngineLeavesInOrder) {
  StartOverNccl(/*tp=*/2, /*pp=*/2);
  auto stream = Generate(20);
  EXPECT_TRUE(stream->WaitForEnd().ok());
  EXPECT_EQ(stream->num_tokens(), 20);
  const absl::Time told = absl::Now();
  kill(PidOfRank(0), SIGTERM);
  ExpectGone(0, told);
  EXPECT_EQ(engine_->LineWith("NCCL, group"), "");
}

TEST_F(NcclLoss, AnErrorOfRankZerosGroupEndsTheEngine) {
  StartOverNccl(/*tp=*/2, /*pp=*/1);
  auto streams = LongStreams(2);
  const absl::Time failed = absl::Now();
  Fail(0);
  ExpectUnavailable(&streams, failed, absl::Seconds(2));
  ExpectGone(kExitEngineLost, failed);
  ExpectSaid("serve: rank 0: NCCL, group tp, rank 0 of 2: ");
  ExpectSaid(" failed: remote process exited or there was a network error");
  ExpectSaid("serve: the engine is lost; exit code 75");
}

TEST_F(NcclLoss, AnErrorOfAnotherRanksGroupEndsTheEngine) {
  StartOverNccl(/*tp=*/1, /*pp=*/2);
  auto streams = LongStreams(2);
  const absl::Time failed = absl::Now();
  Fail(1);
  ExpectUnavailable(&streams, failed, absl::Seconds(2));
  ExpectGone(kExitEngineLost, failed);
  ExpectSaid("error: rank 1: NCCL, group pp, rank 1 of 2: ");
}

TEST_F(NcclLoss, AnErrorEndsAnIdleEngineToo) {
  StartOverNccl(/*tp=*/2, /*pp=*/1);
  const absl::Time failed = absl::Now();
  Fail(0);
  ExpectGone(kExitEngineLost, failed);
  ExpectSaid("serve: rank 0: NCCL, group tp, rank 0 of 2: what was enqueued failed: ");
}

TEST_F(NcclLoss, AKilledRankIsLost) {
  StartOverNccl(/*tp=*/2, /*pp=*/1);
  auto streams = LongStreams(2);
  const absl::Time killed = absl::Now();
  kill(PidOfRank(1), SIGKILL);
  ExpectUnavailable(&streams, killed, absl::Seconds(2));
  ExpectLost(killed);
  ExpectSaid("lost rank 1 (stage 0, tp 1) on ");
}

// Its peers' GPUs wait for it; their hosts do not.
TEST_F(NcclLoss, AStoppedRankIsLost) {
  StartOverNccl(/*tp=*/2, /*pp=*/2, {"--rank_timeout", "2"});
  auto streams = LongStreams(2);
  const absl::Time stopped = absl::Now();
  kill(PidOfRank(3), SIGSTOP);
  ExpectUnavailable(&streams, stopped, absl::Seconds(6));
  ExpectGone(kExitEngineLost, stopped, absl::Seconds(2) + kAllGone);
  ExpectSaid("lost rank 3 (stage 1, tp 1) on ");
  ExpectSaid("no word from it for 2s");
}

TEST_F(NcclLoss, AStepThatHangsNamesTheRankThatIsSilent) {
  StartOverNccl(/*tp=*/2, /*pp=*/1,
                {"--rank_timeout", "30", "--watchdog_soft", "1", "--watchdog_hard", "4"});
  auto streams = LongStreams(2);
  const absl::Time stopped = absl::Now();
  kill(PidOfRank(1), SIGSTOP);
  ExpectUnavailable(&streams, stopped, absl::Seconds(8));
  ExpectGone(kExitEngineLost, stopped, absl::Seconds(4) + kAllGone);
  ExpectSaid("takes longer than --watchdog_hard 4s; the culprit is rank 1 (stage 0, tp 1) on ");
}

}  // namespace
}  // namespace polystrate
