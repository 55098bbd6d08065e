// What becomes of an engine when a rank dies, hangs or cannot start. Cases are named after the
// events that an operator knows.

#include <gmock/gmock.h>
#include <sys/ptrace.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "tests/e2e/lifecycle.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

using BehaviourLoss = Lifecycle;

// --- Rank lost ---

TEST_F(BehaviourLoss, RankLostKilledPeerOfRankZero) {
  Start(/*tp=*/2, /*pp=*/2);
  auto streams = LongStreams(3);
  HealthWatch health(channel_);
  const pid_t pid = PidOfRank(1);
  const absl::Time killed = absl::Now();
  kill(pid, SIGKILL);
  ExpectUnavailable(&streams, killed, absl::Milliseconds(500));
  ExpectLost(killed);
  ExpectSaid(absl::StrCat("lost rank 1 (stage 0, tp 1) on "));
  ExpectSaid(absl::StrCat("pid ", pid, ": "));
  ExpectSaid("its process has ended");
  const auto states = health.End();
  ASSERT_FALSE(states.empty());
  EXPECT_EQ(states.back(), HealthCheckResponse::NOT_SERVING);
}

// Neither ranks that speak MPI nor one that has nobody to speak to.
TEST_F(BehaviourLoss, AKilledLauncherLeavesNoRank) {
  for (const int ranks : {1, 2}) {
    SCOPED_TRACE(ranks);
    Launch(Mpirun(ranks, Serve({"--pp", absl::StrCat(ranks)})));
    ASSERT_TRUE(engine_->WaitForOutput("SERVING", kPatience)) << engine_->Err();
    const absl::Time killed = absl::Now();
    engine_->Signal(SIGKILL);
    ExpectGone(128 + SIGKILL, killed);
  }
}

TEST_F(BehaviourLoss, RankLostKilledSampler) {
  Start(/*tp=*/2, /*pp=*/2);
  auto streams = LongStreams(3);
  const pid_t pid = PidOfRank(2);  // first of the last stage
  const absl::Time killed = absl::Now();
  kill(pid, SIGKILL);
  ExpectUnavailable(&streams, killed, absl::Milliseconds(500));
  ExpectLost(killed);
  ExpectSaid("lost rank 2 (stage 1, tp 0) on ");
}

TEST_F(BehaviourLoss, RankLostWhileIdle) {
  Start(/*tp=*/1, /*pp=*/2);
  const pid_t pid = PidOfRank(1);
  const absl::Time killed = absl::Now();
  kill(pid, SIGKILL);
  ExpectLost(killed);
  ExpectSaid("lost rank 1 (stage 1, tp 0) on ");
}

TEST_F(BehaviourLoss, RankLostKilledRankZero) {
  Start(/*tp=*/2, /*pp=*/2);
  auto streams = LongStreams(2);
  const pid_t pid = PidOfRank(0);
  const absl::Time killed = absl::Now();
  kill(pid, SIGKILL);
  ExpectUnavailable(&streams, killed, absl::Milliseconds(500));
  ExpectLost(killed);
  ExpectSaid("lost rank 0 on ");
  ExpectSaid(absl::StrCat("pid ", pid, "; its process has ended"));
}

// A stopped process keeps its connections; only its silence tells.
TEST_F(BehaviourLoss, RankLostHungRankIsNamedAsTheCulprit) {
  Start(/*tp=*/2, /*pp=*/2, {"--rank_timeout", "2"});
  auto streams = LongStreams(3);
  const pid_t pid = PidOfRank(3);
  const absl::Time stopped = absl::Now();
  kill(pid, SIGSTOP);
  ExpectUnavailable(&streams, stopped, absl::Seconds(6));
  ExpectGone(kExitEngineLost, stopped, absl::Seconds(2) + kAllGone);
  ExpectSaid("lost rank 3 (stage 1, tp 1) on ");
  ExpectSaid(absl::StrCat("pid ", pid, ": "));
  ExpectSaid("no word from it for 2s");
  EXPECT_FALSE(absl::StrContains(engine_->Err(), "lost rank 0"));
}

TEST_F(BehaviourLoss, RankLostHungRankZero) {
  Start(/*tp=*/2, /*pp=*/2, {"--rank_timeout", "2"});
  const auto streams = LongStreams(1);
  const pid_t pid = PidOfRank(0);
  const absl::Time stopped = absl::Now();
  kill(pid, SIGSTOP);
  EXPECT_EQ(streams[0]->WaitForEnd().error_code(), grpc::StatusCode::UNAVAILABLE);
  ExpectGone(kExitEngineLost, stopped, absl::Seconds(2) + kAllGone);
  ExpectSaid("lost rank 0 on ");
  ExpectSaid("no word from it for 2s");
  // Open MPI continues what it kills: rank 0 still speaks, and must not blame another.
  for (int rank : {1, 2, 3}) {
    EXPECT_FALSE(absl::StrContains(engine_->Err(), absl::StrCat("lost rank ", rank)));
  }
}

// The job as a whole may sleep: nobody is blamed for it.
TEST_F(BehaviourLoss, AJobThatIsStoppedAndContinuedGoesOn) {
  Start(/*tp=*/2, /*pp=*/1,
        {"--rank_timeout", "1", "--watchdog_soft", "1", "--watchdog_hard", "1"});
  auto stream = Generate(3000);
  ASSERT_TRUE(stream->WaitForToken());
  const std::vector<pid_t> ranks = {PidOfRank(0), PidOfRank(1)};
  for (const pid_t pid : ranks) kill(pid, SIGSTOP);
  absl::SleepFor(absl::Seconds(3));
  for (const pid_t pid : ranks) kill(pid, SIGCONT);
  EXPECT_TRUE(stream->WaitForEnd().ok()) << engine_->Err();
  EXPECT_EQ(stream->num_tokens(), 3000);
}

// --- Watchdog ---

TEST_F(BehaviourLoss, StepExceedsSoftWatchdogThenRecovers) {
  Start(/*tp=*/2, /*pp=*/2, {"--watchdog_soft", "0.5"});
  auto stream = Generate(3000);
  ASSERT_TRUE(stream->WaitForToken());
  EXPECT_EQ(Health(), pb::HEALTH_STATE_READY);
  const pid_t pid = PidOfRank(3);
  kill(pid, SIGSTOP);
  EXPECT_TRUE(WaitForHealth(pb::HEALTH_STATE_DEGRADED));
  EXPECT_EQ(GrpcHealth(), HealthCheckResponse::SERVING);
  ExpectSaid("takes longer than --watchdog_soft 500ms; DEGRADED");
  for (const char* rank : {"rank 0 (stage 0, tp 0) on ", "rank 1 (stage 0, tp 1) on ",
                           "rank 2 (stage 1, tp 0) on ", "rank 3 (stage 1, tp 1) on "}) {
    ExpectSaid(rank);
  }
  ExpectSaid("micro-batch");
  // Rank 2 waits for its stopped peer: within the layers or, after the last, for its logits.
  const std::string waiting = engine_->LineWith("rank 2 (stage 1, tp 0) on ");
  EXPECT_TRUE(absl::StrContains(waiting, ": in all-reduce ") ||
              absl::StrContains(waiting, ": in gather "))
      << waiting;
  kill(pid, SIGCONT);
  EXPECT_TRUE(WaitForHealth(pb::HEALTH_STATE_READY));
  ExpectSaid("no longer DEGRADED");
  EXPECT_TRUE(stream->WaitForEnd().ok());
  EXPECT_EQ(stream->num_tokens(), 3000) << "nothing is lost";
}

// A main thread that hangs while its process lives: the others wait in MPI, it does not.
TEST_F(BehaviourLoss, StepExceedsHardWatchdog) {
  Start(/*tp=*/2, /*pp=*/2, {"--watchdog_soft", "0.5", "--watchdog_hard", "2"});
  const pid_t pid = PidOfRank(1);
  // Seizing the task whose id is the process's stops the main thread and no other.
  ASSERT_EQ(ptrace(PTRACE_SEIZE, pid, nullptr, nullptr), 0) << strerror(errno);
  auto streams = LongStreams(3);
  HealthWatch health(channel_);
  const absl::Time stopped = absl::Now();
  ASSERT_EQ(ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr), 0) << strerror(errno);
  ExpectUnavailable(&streams, stopped, absl::Seconds(6));
  ExpectSaid("takes longer than --watchdog_hard 2s; the culprit is rank 1 (stage 0, tp 1) on ");
  const auto states = health.End();
  ASSERT_FALSE(states.empty());
  EXPECT_EQ(states.back(), HealthCheckResponse::NOT_SERVING);
  ptrace(PTRACE_DETACH, pid, nullptr, nullptr);
  ExpectGone(kExitEngineLost, stopped, absl::Seconds(2) + kAllGone);
}

TEST_F(BehaviourLoss, AnIdleEngineIsNoHungOneAndHoldsNoCore) {
  Start(/*tp=*/1, /*pp=*/2, {"--watchdog_soft", "0.3", "--watchdog_hard", "0.6"});
  const double busy = CpuSeconds(PidOfRank(0)) + CpuSeconds(PidOfRank(1));
  absl::SleepFor(absl::Seconds(2));
  EXPECT_LT(CpuSeconds(PidOfRank(0)) + CpuSeconds(PidOfRank(1)) - busy, 0.4);
  EXPECT_EQ(Health(), pb::HEALTH_STATE_READY) << engine_->Err();
  auto stream = Generate(5);
  EXPECT_TRUE(stream->WaitForEnd().ok());
  EXPECT_FALSE(absl::StrContains(engine_->Err(), "DEGRADED")) << engine_->Err();
}

// --- Start-up ---

TEST_F(BehaviourLoss, StartUpFailureOnAnotherRankEndsAllWithTheFirstCause) {
  TempDir broken;
  TinyModelSpec spec;
  spec.num_kv_heads = 2;
  spec.num_kv_layers = 2;
  spec.max_position_embeddings = 65536;
  spec.reuse_keys = "post_rope";
  WriteTinyModel(broken.path(), spec);
  const std::string weights = ReadFile(broken.File("model.safetensors"));
  WriteFile(broken.File("model.safetensors"), weights.substr(0, weights.size() / 2));
  // Rank 1 reads its weights from a disk of its own, where they are cut off.
  const std::string script = absl::StrCat(
      "model=", dir_.path(), "; test $OMPI_COMM_WORLD_RANK = 1 && model=", broken.path(),
      "; exec \"$0\" serve --model $model --listen ", address_, " --tp 2");
  const absl::Time begin = absl::Now();
  Launch(Mpirun(2, {"sh", "-c", script, BuiltProgram("polystrate")}));
  const std::optional<int> exit_code = engine_->Wait(kPatience);
  EXPECT_EQ(exit_code, 2) << engine_->Err();
  EXPECT_TRUE(AllGone(address_, kAllGone));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
  ExpectSaid("error: rank 1: ");
  ExpectSaid(broken.path());
  EXPECT_FALSE(absl::StrContains(engine_->Err(), "SERVING"));
  EXPECT_FALSE(absl::StrContains(engine_->Err(), "lost rank")) << engine_->Err();
}

// --- Stages ---

TEST_F(BehaviourLoss, StagesTellWhereRanksAreAndHowBusy) {
  Start(/*tp=*/2, /*pp=*/2);
  auto stream = Generate(500);
  EXPECT_TRUE(stream->WaitForEnd().ok());
  absl::SleepFor(absl::Milliseconds(600));  // two beats
  const v1::GetStagesResponse stages = Stages();
  ASSERT_EQ(stages.ranks_size(), 4);
  for (int rank = 0; rank < 4; ++rank) {
    const v1::RankActivity& activity = stages.ranks(rank);
    EXPECT_EQ(activity.rank(), static_cast<uint32_t>(rank));
    EXPECT_EQ(activity.tp_rank(), static_cast<uint32_t>(rank % 2));
    EXPECT_EQ(activity.pp_rank(), static_cast<uint32_t>(rank / 2));
    EXPECT_EQ(activity.pid(), PidOfRank(rank));
    EXPECT_FALSE(activity.host().empty());
    EXPECT_GE(activity.steps(), 500u);
    EXPECT_EQ(activity.steps(), stages.ranks(0).steps());
    EXPECT_EQ(activity.tokens(), stages.ranks(0).tokens());
    EXPECT_GT(activity.busy_seconds(), 0.0);
    // One stream: while one stage works the other has nothing to do.
    EXPECT_GT(activity.bubble_share(), 0.1);
    EXPECT_LT(activity.bubble_share(), 1.0);
    EXPECT_NEAR(activity.bubble_share(),
                activity.waiting_seconds() / (activity.waiting_seconds() + activity.busy_seconds()),
                1e-9);
    EXPECT_NE(activity.doing().find("receive"), std::string::npos) << activity.doing();
  }
  EXPECT_EQ(Stages().ranks(3).waiting_seconds(), stages.ranks(3).waiting_seconds())
      << "an idle engine has no bubble";

  // Two owners with a reader each, cut between; of their two KV heads each rank holds one.
  ASSERT_EQ(stages.stages_size(), 2);
  for (uint32_t i = 0; i < 2; ++i) {
    const v1::StageLayout& stage = stages.stages(static_cast<int>(i));
    EXPECT_EQ(stage.pp_rank(), i);
    EXPECT_EQ(stage.first_layer(), 2 * i);
    EXPECT_EQ(stage.end_layer(), 2 * i + 2);
    EXPECT_THAT(stage.kv_source(), ::testing::ElementsAre(2 * i, 2 * i));
    EXPECT_EQ(stage.kv_bytes_per_token(), 2u * 1 * 1 * 8 * 4);
  }
}

}  // namespace
}  // namespace polystrate
