// How an engine stops: told to, by a rank that dies, by one that hangs. Real ranks under mpirun,
// live streams over a socket; every case is bounded in time and leaves no process behind. Cases are
// named after the events that an operator knows.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "health.grpc.pb.h"
#include "openengine.grpc.pb.h"
#include "polystrate_admin.grpc.pb.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;
using grpc::health::v1::HealthCheckResponse;

constexpr absl::Duration kPatience = absl::Seconds(60);  // a busy machine, not a slow engine
constexpr absl::Duration kAllGone = absl::Seconds(10);
constexpr int kExitEngineLost = 75;

// One stream, read by a thread of its own.
class Stream {
 public:
  Stream(const std::shared_ptr<grpc::Channel>& channel, uint32_t max_tokens) {
    pb::GenerateRequest request;
    for (uint32_t token : {5, 6, 7}) request.mutable_token_ids()->add_ids(token);
    request.mutable_sampling()->set_temperature(0.0);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    reader_ = pb::Inference::NewStub(channel)->Generate(&context_, request);
    thread_ = std::thread(&Stream::Read, this);
  }
  ~Stream() {
    context_.TryCancel();
    if (thread_.joinable()) thread_.join();
  }

  bool WaitForToken() const {
    for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
      if (num_tokens_ > 0) return true;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return false;
  }
  // To be called once. After it the rest is known.
  grpc::Status WaitForEnd() {
    thread_.join();
    return status_;
  }
  int num_tokens() const { return num_tokens_; }
  bool finished() const { return finished_; }
  absl::Time ended() const { return ended_; }

 private:
  void Read() {
    pb::GenerateResponse response;
    while (reader_->Read(&response)) {
      num_tokens_ += response.token().tokens_size();
      finished_ = finished_ || response.has_finished();
    }
    status_ = reader_->Finish();
    ended_ = absl::Now();
  }

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<pb::GenerateResponse>> reader_;
  std::thread thread_;
  std::atomic<int> num_tokens_{0};
  bool finished_ = false;
  absl::Time ended_;
  grpc::Status status_;
};

// What grpc.health.v1 tells a watcher, to the end of the connection.
class HealthWatch {
 public:
  explicit HealthWatch(const std::shared_ptr<grpc::Channel>& channel) {
    stream_ = grpc::health::v1::Health::NewStub(channel)->Watch(&context_, {});
    thread_ = std::thread([this] {
      HealthCheckResponse response;
      while (stream_->Read(&response)) states_.push_back(response.status());
      stream_->Finish();
    });
  }
  ~HealthWatch() { End(); }
  // All that was said.
  std::vector<HealthCheckResponse::ServingStatus> End() {
    if (thread_.joinable()) thread_.join();
    return states_;
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<HealthCheckResponse>> stream_;
  std::vector<HealthCheckResponse::ServingStatus> states_;
  std::thread thread_;
};

int RankOf(pid_t pid) {
  const std::string variable = "OMPI_COMM_WORLD_RANK=";
  const CommandResult environment =
      RunCommand({"grep", "-az", "^" + variable, absl::StrCat("/proc/", pid, "/environ")});
  if (environment.exit_code != 0) return -1;
  return std::atoi(environment.out.c_str() + variable.size());
}

// Whether the process has a handler for the signal.
bool Catches(pid_t pid, int number) {
  const std::string status = ReadFile(absl::StrCat("/proc/", pid, "/status"));
  const std::string key = "SigCgt:\t";
  const size_t at = status.find(key);
  if (at == std::string::npos) return false;
  return (std::stoull(status.substr(at + key.size(), 16), nullptr, 16) >> (number - 1) & 1) != 0;
}

// Of all its threads, user and system.
double CpuSeconds(pid_t pid) {
  const std::string stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  const std::vector<std::string> fields = absl::StrSplit(stat.substr(stat.rfind(')') + 2), ' ');
  return (std::stod(fields[11]) + std::stod(fields[12])) /
         static_cast<double>(sysconf(_SC_CLK_TCK));
}

class Lifecycle : public ::testing::Test {
 protected:
  Lifecycle() : address_(absl::StrCat("127.0.0.1:", FreePort())) {
    TinyModelSpec spec;
    spec.num_kv_heads = 2;
    spec.num_kv_layers = 2;
    spec.max_position_embeddings = 65536;  // streams last as long as a test wants
    spec.reuse_keys = "post_rope";
    WriteTinyModel(dir_.path(), spec);
  }

  CommandLine Serve(const CommandLine& more) const {
    CommandLine command = Polystrate({"serve", "--model", dir_.path(), "--listen", address_,
                                      "--kv_memory", "67108864", "--threads", "1"});
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  void Launch(const CommandLine& command) {
    engine_ = std::make_unique<Process>(command);
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
  }
  // Of `tp` * `pp` ranks, SERVING.
  void Start(int tp, int pp, const CommandLine& more = {}) {
    CommandLine flags = {"--tp", absl::StrCat(tp), "--pp", absl::StrCat(pp)};
    flags.insert(flags.end(), more.begin(), more.end());
    Launch(tp * pp == 1 ? Serve(flags) : Mpirun(tp * pp, Serve(flags)));
    ASSERT_TRUE(engine_->WaitForOutput("SERVING", kPatience)) << engine_->Err();
  }
  // -1: there is none, or none yet.
  pid_t FindRank(int rank) const {
    for (pid_t pid : ProcessesWith(absl::StrCat("--listen ", address_))) {
      if (RankOf(pid) == rank) return pid;
    }
    return -1;
  }
  pid_t PidOfRank(int rank) const {
    const pid_t pid = FindRank(rank);
    EXPECT_GT(pid, 0) << "no rank " << rank;
    return pid;
  }
  std::unique_ptr<Stream> Generate(uint32_t max_tokens) const {
    return std::make_unique<Stream>(channel_, max_tokens);
  }
  // `n` streams that would go on for minutes, each with a token already.
  std::vector<std::unique_ptr<Stream>> LongStreams(int n) const {
    std::vector<std::unique_ptr<Stream>> streams;
    for (int i = 0; i < n; ++i) streams.push_back(Generate(60000));
    for (const auto& stream : streams) EXPECT_TRUE(stream->WaitForToken());
    return streams;
  }
  pb::HealthState Health() const {
    grpc::ClientContext context;
    pb::HealthResponse health;
    const grpc::Status status =
        pb::Control::NewStub(channel_)->Health(&context, pb::HealthRequest(), &health);
    return status.ok() ? health.state() : pb::HEALTH_STATE_UNSPECIFIED;
  }
  HealthCheckResponse::ServingStatus GrpcHealth() const {
    grpc::ClientContext context;
    HealthCheckResponse response;
    const grpc::Status status =
        grpc::health::v1::Health::NewStub(channel_)->Check(&context, {}, &response);
    return status.ok() ? response.status() : HealthCheckResponse::UNKNOWN;
  }
  bool WaitForHealth(pb::HealthState state) const {
    for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
      if (Health() == state) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  v1::GetStagesResponse Stages() const {
    grpc::ClientContext context;
    v1::GetStagesResponse stages;
    const grpc::Status status =
        v1::Admin::NewStub(channel_)->GetStages(&context, v1::GetStagesRequest(), &stages);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return stages;
  }
  grpc::Status Drain(const v1::DrainRequest& request) const {
    grpc::ClientContext context;
    v1::DrainResponse response;
    return v1::Admin::NewStub(channel_)->Drain(&context, request, &response);
  }

  void ExpectUnavailable(std::vector<std::unique_ptr<Stream>>* streams, absl::Time since,
                         absl::Duration within) const {
    for (const auto& stream : *streams) {
      const grpc::Status status = stream->WaitForEnd();
      EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
      EXPECT_FALSE(stream->finished());
      EXPECT_LT(stream->ended() - since, within);
    }
  }
  // The engine is gone, all of it, with this exit code, soon after `since`.
  void ExpectGone(int exit_code, absl::Time since, absl::Duration within = kAllGone) const {
    EXPECT_EQ(engine_->Wait(kPatience), exit_code) << engine_->Err();
    ExpectNoneLeft(since, within);
  }
  // As after a rank's death, of which rank 0 and mpirun learn at once: who is first decides.
  void ExpectLost(absl::Time since) const {
    const std::optional<int> exit_code = engine_->Wait(kPatience);
    EXPECT_TRUE(exit_code == 137 || exit_code == kExitEngineLost) << exit_code.value_or(-1) << "\n"
                                                                  << engine_->Err();
    ExpectNoneLeft(since, kAllGone);
  }
  void ExpectNoneLeft(absl::Time since, absl::Duration within) const {
    EXPECT_TRUE(AllGone(address_, kAllGone));
    EXPECT_LT(absl::Now() - since, within) << engine_->Err();
  }
  // What a rank says comes through mpirun, after what its clients hear from it.
  void ExpectSaid(const std::string& text) const {
    EXPECT_TRUE(engine_->WaitForOutput(text, kPatience)) << text << "\n--\n" << engine_->Err();
  }

  TempDir dir_;
  const std::string address_;
  std::unique_ptr<Process> engine_;
  std::shared_ptr<grpc::Channel> channel_;
};

// --- Rank lost ---

TEST_F(Lifecycle, RankLostKilledPeerOfRankZero) {
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

TEST_F(Lifecycle, RankLostKilledSampler) {
  Start(/*tp=*/2, /*pp=*/2);
  auto streams = LongStreams(3);
  const pid_t pid = PidOfRank(2);  // first of the last stage
  const absl::Time killed = absl::Now();
  kill(pid, SIGKILL);
  ExpectUnavailable(&streams, killed, absl::Milliseconds(500));
  ExpectLost(killed);
  ExpectSaid("lost rank 2 (stage 1, tp 0) on ");
}

TEST_F(Lifecycle, RankLostWhileIdle) {
  Start(/*tp=*/1, /*pp=*/2);
  const pid_t pid = PidOfRank(1);
  const absl::Time killed = absl::Now();
  kill(pid, SIGKILL);
  ExpectLost(killed);
  ExpectSaid("lost rank 1 (stage 1, tp 0) on ");
}

TEST_F(Lifecycle, RankLostKilledRankZero) {
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
TEST_F(Lifecycle, RankLostHungRankIsNamedAsTheCulprit) {
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

TEST_F(Lifecycle, RankLostHungRankZero) {
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
TEST_F(Lifecycle, AJobThatIsStoppedAndContinuedGoesOn) {
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

TEST_F(Lifecycle, StepExceedsSoftWatchdogThenRecovers) {
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
  ExpectSaid("all-reduce");  // rank 2 waits for its stopped peer
  kill(pid, SIGCONT);
  EXPECT_TRUE(WaitForHealth(pb::HEALTH_STATE_READY));
  ExpectSaid("no longer DEGRADED");
  EXPECT_TRUE(stream->WaitForEnd().ok());
  EXPECT_EQ(stream->num_tokens(), 3000) << "nothing is lost";
}

// A main thread that hangs while its process lives: the others wait in MPI, it does not.
TEST_F(Lifecycle, StepExceedsHardWatchdog) {
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

TEST_F(Lifecycle, AnIdleEngineIsNoHungOneAndHoldsNoCore) {
  Start(/*tp=*/1, /*pp=*/2, {"--watchdog_soft", "0.3", "--watchdog_hard", "0.6"});
  const double busy = CpuSeconds(PidOfRank(0)) + CpuSeconds(PidOfRank(1));
  absl::SleepFor(absl::Seconds(2));
  EXPECT_LT(CpuSeconds(PidOfRank(0)) + CpuSeconds(PidOfRank(1)) - busy, 0.4);
  EXPECT_EQ(Health(), pb::HEALTH_STATE_READY) << engine_->Err();
  auto stream = Generate(5);
  EXPECT_TRUE(stream->WaitForEnd().ok());
  EXPECT_FALSE(absl::StrContains(engine_->Err(), "DEGRADED")) << engine_->Err();
}

// --- Drain ---

// As SIGTERM at rank 0 and SIGUSR1 at mpirun do: what runs is finished, what comes is refused.
TEST_F(Lifecycle, DrainFinishesWhatRunsAndRefusesTheRest) {
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

TEST_F(Lifecycle, DrainTimeoutEndsStreamsUnavailable) {
  Start(/*tp=*/2, /*pp=*/2, {"--drain_timeout", "1"});
  auto streams = LongStreams(2);
  const absl::Time asked = absl::Now();
  kill(PidOfRank(0), SIGTERM);
  ExpectUnavailable(&streams, asked, absl::Seconds(5));
  EXPECT_GE(streams[0]->ended() - asked, absl::Milliseconds(900));
  ExpectGone(0, asked);
}

TEST_F(Lifecycle, DrainRpcTimeoutOverridesTheFlag) {
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

TEST_F(Lifecycle, ASecondSignalMeansNow) {
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
TEST_F(Lifecycle, DrainDuringStartUp) {
  pid_t held = -1;
  do {
    Launch(Mpirun(2, Serve({"--tp", "2"})));
    held = -1;
    for (const absl::Time end = absl::Now() + kPatience; held < 0 && absl::Now() < end;) {
      held = FindRank(1);
    }
    ASSERT_GT(held, 0);
    kill(held, SIGSTOP);
  } while (absl::StrContains(engine_->Err(), "SERVING"));  // too late
  const pid_t rank_zero = PidOfRank(0);
  while (!Catches(rank_zero, SIGTERM)) absl::SleepFor(absl::Milliseconds(1));  // before main
  const absl::Time asked = absl::Now();
  kill(rank_zero, SIGTERM);
  absl::SleepFor(absl::Milliseconds(300));
  kill(held, SIGCONT);
  ExpectGone(0, asked, kPatience);
  EXPECT_FALSE(absl::StrContains(engine_->Err(), "SERVING")) << engine_->Err();
  ExpectSaid("draining");
}

TEST_F(Lifecycle, AHungRankDoesNotHoldADrain) {
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
TEST_F(Lifecycle, SigtermAtAnotherRankIsIgnored) {
  Start(/*tp=*/2, /*pp=*/2);
  auto stream = Generate(1000);
  ASSERT_TRUE(stream->WaitForToken());
  for (int rank : {1, 2, 3}) kill(PidOfRank(rank), SIGTERM);
  EXPECT_TRUE(stream->WaitForEnd().ok());
  EXPECT_EQ(stream->num_tokens(), 1000);
  EXPECT_EQ(Health(), pb::HEALTH_STATE_READY);
}

// mpirun follows its SIGTERM with SIGKILL after a second: there is no time to drain.
TEST_F(Lifecycle, SigtermFromMpirunIsNoDrain) {
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

// --- Start-up ---

TEST_F(Lifecycle, StartUpFailureOnAnotherRankEndsAllWithTheFirstCause) {
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
  Launch(Mpirun(2, {"sh", "-c", script, POLYSTRATE_BINARY}));
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

TEST_F(Lifecycle, StagesTellWhereRanksAreAndHowBusy) {
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
}

}  // namespace
}  // namespace polystrate
