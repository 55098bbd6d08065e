// How an engine ends when it is told to.

#include "absl/strings/match.h"
#include "tests/e2e/lifecycle.h"

namespace polystrate {
namespace {

using BehaviourDrain = Lifecycle;

// --- Drain ---

// As SIGTERM at rank 0 and SIGUSR1 at mpirun do: what runs is finished, what comes is refused.
TEST_F(BehaviourDrain, FinishesWhatRunsAndRefusesTheRest) {
  const struct {
    const char* name;
    int signal;
  } ways[] = {{"SIGTERM at rank 0", SIGTERM}, {"SIGUSR1 at mpirun", SIGUSR1}, {"Drain RPC", 0}};
  for (const auto& way : ways) {
    SCOPED_TRACE(way.name);
    Start(/*tp=*/2, /*pp=*/1);
    auto stream = Generate(2000);
    ASSERT_TRUE(stream->WaitForToken());
    const absl::Time asked = absl::Now();
    if (way.signal == SIGTERM) kill(PidOfRank(0), SIGTERM);
    if (way.signal == SIGUSR1) engine_->Signal(SIGUSR1);
    if (way.signal == 0) {
      EXPECT_TRUE(Drain(v1::DrainRequest()).ok());
    }
    ASSERT_TRUE(engine_->WaitForOutput("draining", kPatience));
    EXPECT_EQ(GrpcHealth(), HealthCheckResponse::NOT_SERVING);
    EXPECT_EQ(Health(), pb::HEALTH_STATE_DRAINING);
    const grpc::Status refused = Generate(1)->WaitForEnd();
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE) << refused.error_message();
    EXPECT_TRUE(stream->WaitForEnd().ok());
    EXPECT_TRUE(stream->finished());
    EXPECT_EQ(stream->num_tokens(), 2000);
    ExpectGone(0, asked, kPatience);
    ExpectSaid("drained");
  }
}

TEST_F(BehaviourDrain, TimeoutEndsStreamsUnavailable) {
  Start(/*tp=*/2, /*pp=*/2, {"--drain_timeout", "1"});
  auto streams = LongStreams(2);
  const absl::Time asked = absl::Now();
  kill(PidOfRank(0), SIGTERM);
  ExpectUnavailable(&streams, asked, absl::Seconds(5));
  EXPECT_GE(streams[0]->ended() - asked, absl::Milliseconds(900));
  ExpectGone(0, asked);
}

TEST_F(BehaviourDrain, RpcTimeoutOverridesTheFlag) {
  Start(/*tp=*/1, /*pp=*/2);
  auto streams = LongStreams(2);
  v1::DrainRequest request;
  request.set_timeout_seconds(-1);
  EXPECT_EQ(Drain(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Health(), pb::HEALTH_STATE_READY);
  request.set_timeout_seconds(0);
  const absl::Time asked = absl::Now();
  EXPECT_TRUE(Drain(request).ok());
  ExpectUnavailable(&streams, asked, absl::Seconds(5));
  ExpectGone(0, asked);
}

TEST_F(BehaviourDrain, ASecondSignalMeansNow) {
  Start(/*tp=*/1, /*pp=*/1);
  auto streams = LongStreams(2);
  engine_->Signal(SIGTERM);  // alone, nobody follows it with SIGKILL: it drains, whoever sends it
  ASSERT_TRUE(engine_->WaitForOutput("draining for at most 30s", kPatience));
  const absl::Time asked = absl::Now();
  engine_->Signal(SIGINT);
  ExpectUnavailable(&streams, asked, absl::Seconds(5));
  ExpectGone(0, asked);
}

// An engine that starts cannot stop halfway, but it never serves. Rank 1 is held up on its way, so
// that the signal comes in time.
TEST_F(BehaviourDrain, DuringStartUp) {
  pid_t held = -1;
  do {
    Launch(Mpirun(2, Serve({"--tp", "2"})));
    held = WaitForRank(1);
    ASSERT_GT(held, 0);
    kill(held, SIGSTOP);
    // Stopped too late, rank 1 has agreed already and rank 0 goes on without it.
  } while (engine_->WaitForOutput("SERVING", absl::Seconds(1)));
  const pid_t rank_zero = WaitForRank(0);  // which may come up later than rank 1
  ASSERT_GT(rank_zero, 0);
  while (!Catches(rank_zero, SIGTERM)) absl::SleepFor(absl::Milliseconds(1));  // before main
  const absl::Time asked = absl::Now();
  kill(rank_zero, SIGTERM);
  absl::SleepFor(absl::Milliseconds(300));
  kill(held, SIGCONT);
  ExpectGone(0, asked, kPatience);
  EXPECT_FALSE(absl::StrContains(engine_->Err(), "SERVING")) << engine_->Err();
  ExpectSaid("draining");
}

TEST_F(BehaviourDrain, AHungRankDoesNotHoldADrain) {
  Start(/*tp=*/1, /*pp=*/2, {"--drain_timeout", "0", "--rank_timeout", "3"});
  auto streams = LongStreams(1);
  kill(PidOfRank(1), SIGSTOP);
  const absl::Time asked = absl::Now();
  kill(PidOfRank(0), SIGTERM);
  ExpectUnavailable(&streams, asked, absl::Seconds(2));
  ExpectGone(kExitEngineLost, asked, absl::Seconds(3) + kAllGone);
  ExpectSaid("lost rank 1 (stage 1, tp 0) on ");
}

// Only rank 0 decides.
TEST_F(BehaviourDrain, SigtermAtAnotherRankIsIgnored) {
  Start(/*tp=*/2, /*pp=*/2);
  auto stream = Generate(1000);
  ASSERT_TRUE(stream->WaitForToken());
  for (int rank : {1, 2, 3}) kill(PidOfRank(rank), SIGTERM);
  EXPECT_TRUE(stream->WaitForEnd().ok());
  EXPECT_EQ(stream->num_tokens(), 1000);
  EXPECT_EQ(Health(), pb::HEALTH_STATE_READY);
}

// mpirun follows its SIGTERM with SIGKILL after a second: there is no time to drain.
TEST_F(BehaviourDrain, SigtermFromMpirunIsNoDrain) {
  Start(/*tp=*/2, /*pp=*/1);
  auto streams = LongStreams(2);
  const absl::Time asked = absl::Now();
  engine_->Signal(SIGTERM);
  ExpectUnavailable(&streams, asked, absl::Seconds(4));
  EXPECT_TRUE(engine_->Wait(kPatience).has_value());
  EXPECT_NE(engine_->Wait(kPatience), 0);
  EXPECT_TRUE(AllGone(address_, kAllGone));
  ExpectSaid("mpirun ends the job");
  ExpectSaid("to drain: SIGUSR1 at mpirun");
}

}  // namespace
}  // namespace polystrate
