// An engine that is going to be stopped, killed or hung: real ranks under mpirun, live streams over
// a socket, every wait bounded, no process left behind.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

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

namespace pb = openengine::v1;
using grpc::health::v1::HealthCheckResponse;

inline constexpr absl::Duration kPatience = absl::Seconds(60);  // a busy machine, not a slow engine
inline constexpr absl::Duration kAllGone = absl::Seconds(10);
inline constexpr int kExitEngineLost = 75;

// One stream, read by a thread of its own.
class LiveStream {
 public:
  LiveStream(const std::shared_ptr<grpc::Channel>& channel, uint32_t max_tokens) {
    pb::GenerateRequest request;
    for (uint32_t token : {5, 6, 7}) request.mutable_token_ids()->add_ids(token);
    request.mutable_sampling()->set_temperature(0.0);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    reader_ = pb::Inference::NewStub(channel)->Generate(&context_, request);
    thread_ = std::thread(&LiveStream::Read, this);
  }
  ~LiveStream() {
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

inline int RankOf(pid_t pid) {
  const std::string variable = "OMPI_COMM_WORLD_RANK=";
  const CommandResult environment =
      RunCommand({"grep", "-az", "^" + variable, absl::StrCat("/proc/", pid, "/environ")});
  if (environment.exit_code != 0) return -1;
  return std::atoi(environment.out.c_str() + variable.size());
}

// Whether the process has a handler for the signal.
inline bool Catches(pid_t pid, int number) {
  const std::string status = ReadFile(absl::StrCat("/proc/", pid, "/status"));
  const std::string key = "SigCgt:\t";
  const size_t at = status.find(key);
  if (at == std::string::npos) return false;
  return (std::stoull(status.substr(at + key.size(), 16), nullptr, 16) >> (number - 1) & 1) != 0;
}

// Of all its threads, user and system.
inline double CpuSeconds(pid_t pid) {
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
  // As soon as there is one; -1 when there never is.
  pid_t WaitForRank(int rank) const {
    pid_t pid = -1;
    for (const absl::Time end = absl::Now() + kPatience; pid < 0 && absl::Now() < end;) {
      pid = FindRank(rank);
    }
    return pid;
  }
  pid_t PidOfRank(int rank) const {
    const pid_t pid = FindRank(rank);
    EXPECT_GT(pid, 0) << "no rank " << rank;
    return pid;
  }
  std::unique_ptr<LiveStream> Generate(uint32_t max_tokens) const {
    return std::make_unique<LiveStream>(channel_, max_tokens);
  }
  // `n` streams that would go on for minutes, each with a token already.
  std::vector<std::unique_ptr<LiveStream>> LongStreams(int n) const {
    std::vector<std::unique_ptr<LiveStream>> streams;
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

  void ExpectUnavailable(std::vector<std::unique_ptr<LiveStream>>* streams, absl::Time since,
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

}  // namespace polystrate
