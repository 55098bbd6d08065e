// An engine as people run it: serve under mpirun, clients over a socket. How it stops:
// behaviour_{drain,loss}_test.cc.

#include <gtest/gtest.h>
#include <signal.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "openengine.grpc.pb.h"
#include "rpc/client.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

constexpr absl::Duration kStartTimeout = absl::Seconds(60);
constexpr absl::Duration kStopTimeout = absl::Seconds(20);

// Four ranks, TP 2 x PP 2, and a channel to them.
class Serve : public ::testing::Test {
 protected:
  Serve() : address_(absl::StrCat("127.0.0.1:", FreePort())) {
    TinyModelSpec spec;
    spec.num_kv_heads = 2;
    spec.num_kv_layers = 2;
    spec.max_position_embeddings = 4096;
    spec.reuse_keys = "post_rope";
    WriteTinyModel(dir_.path(), spec);
  }

  void Start(const CommandLine& more = {}) {
    CommandLine command = Polystrate({"serve", "--model", dir_.path(), "--tp", "2", "--pp", "2",
                                      "--listen", address_, "--kv_memory", "16777216"});
    command.insert(command.end(), more.begin(), more.end());
    engine_ = std::make_unique<Process>(Mpirun(4, command));
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
  }
  void StartAndWait(const CommandLine& more = {}) {
    Start(more);
    ASSERT_TRUE(engine_->WaitForOutput("SERVING", kStartTimeout)) << engine_->Err();
  }
  // Every process of this engine names its own address.
  bool AllRanksGone() const { return AllGone(address_, kStopTimeout); }
  pid_t PidOfRank(int rank) const {
    for (pid_t pid : ProcessesWith(absl::StrCat("--listen ", address_))) {
      if (RankOf(pid) == rank) return pid;
    }
    return -1;
  }

  pb::GenerateRequest Request(uint32_t max_tokens, const std::string& id = "") const {
    pb::GenerateRequest request;
    request.set_request_id(id);
    for (uint32_t token : {5, 6, 7}) request.mutable_token_ids()->add_ids(token);
    request.mutable_sampling()->set_temperature(0.0);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    return request;
  }
  std::unique_ptr<grpc::ClientReader<pb::GenerateResponse>> Generate(
      grpc::ClientContext* context, const pb::GenerateRequest& request) const {
    context->set_wait_for_ready(true);
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    return pb::Inference::NewStub(channel_)->Generate(context, request);
  }
  pb::LoadInfo Load() const {
    grpc::ClientContext context;
    pb::LoadInfo load;
    const grpc::Status status =
        pb::Control::NewStub(channel_)->GetLoad(&context, pb::GetLoadRequest(), &load);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return load;
  }
  bool WaitUntilIdle() const {
    for (int i = 0; i < 500; ++i) {
      const pb::LoadInfo load = Load();
      if (load.used_kv_blocks() == 0 && load.running_requests() == 0) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }

  TempDir dir_;
  const std::string address_;
  std::unique_ptr<Process> engine_;
  std::shared_ptr<grpc::Channel> channel_;

 private:
  static int RankOf(pid_t pid);
};

int Serve::RankOf(pid_t pid) {
  const std::string variable = "OMPI_COMM_WORLD_RANK=";
  const CommandResult environment =
      RunCommand({"grep", "-az", "^" + variable, absl::StrCat("/proc/", pid, "/environ")});
  if (environment.exit_code != 0) return -1;
  return std::atoi(environment.out.c_str() + variable.size());
}

struct Stream {
  std::vector<uint32_t> token_ids;
  bool finished = false;
  pb::Usage usage;
};

Stream ReadAll(grpc::ClientReader<pb::GenerateResponse>* reader) {
  Stream stream;
  pb::GenerateResponse response;
  while (reader->Read(&response)) {
    EXPECT_FALSE(stream.finished) << "an event after the last";
    for (const pb::TokenInfo& token : response.token().tokens()) {
      stream.token_ids.push_back(token.token_id());
    }
    if (response.has_finished()) {
      stream.finished = true;
      stream.usage = response.usage();
    }
  }
  return stream;
}

TEST_F(Serve, StreamsWhatGenerateSaysAndLeavesNothingBehind) {
  StartAndWait();
  grpc::ClientContext context;
  auto reader = Generate(&context, Request(20));
  const Stream stream = ReadAll(reader.get());
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(stream.finished);
  EXPECT_EQ(stream.usage.prompt_tokens(), 3u);
  EXPECT_EQ(stream.usage.completion_tokens(), 20u);

  const CommandResult offline =
      RunCommand(Polystrate({"generate", "--model", dir_.path(), "--prompt_ids", "5,6,7",
                             "--max_tokens", "20", "--temperature", "0", "--ignore_eos"}));
  std::string ids;
  for (uint32_t id : stream.token_ids) absl::StrAppend(&ids, ids.empty() ? "" : " ", id);
  EXPECT_EQ(offline.out, ids + "\n");

  EXPECT_TRUE(WaitUntilIdle());
  kill(PidOfRank(0), SIGTERM);
  EXPECT_EQ(engine_->Wait(kStopTimeout), 0) << engine_->Err();
  EXPECT_TRUE(AllRanksGone());
}

TEST_F(Serve, AClientThatGoesAwayFreesItsBlocks) {
  StartAndWait();
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    auto reader = Generate(&context, Request(4000));
    pb::GenerateResponse first;
    ASSERT_TRUE(reader->Read(&first));
    EXPECT_GT(Load().running_requests(), 0u);
    context.TryCancel();
    reader->Finish();
    EXPECT_TRUE(WaitUntilIdle());
  }
  grpc::ClientContext context;
  auto reader = Generate(&context, Request(5));
  EXPECT_EQ(ReadAll(reader.get()).token_ids.size(), 5u);
}

TEST_F(Serve, ADeadlineEndsARequest) {
  StartAndWait();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  auto reader = pb::Inference::NewStub(channel_)->Generate(&context, Request(4000));
  ReadAll(reader.get());
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(WaitUntilIdle());
}

TEST_F(Serve, AKilledMpirunLeavesNoRankBehind) {
  StartAndWait();
  engine_->Signal(SIGKILL);
  engine_->Wait(kStopTimeout);
  EXPECT_TRUE(AllRanksGone());
}

TEST_F(Serve, APortInUseStopsAllRanksWithTheReason) {
  StartAndWait();
  CommandLine command =
      Polystrate({"serve", "--model", dir_.path(), "--tp", "2", "--pp", "2", "--listen", address_});
  const CommandResult second = RunCommand(Mpirun(4, command));
  EXPECT_NE(second.exit_code, 0);
  EXPECT_NE(second.err.find(address_), std::string::npos) << second.err;
  grpc::ClientContext context;
  auto reader = Generate(&context, Request(2));
  EXPECT_EQ(ReadAll(reader.get()).token_ids.size(), 2u);
}

TEST_F(Serve, TheClientWaitsForAnEngineThatIsStillStarting) {
  Process client(Polystrate({"client", "--target", address_, "--prompt_ids", "5,6,7",
                             "--max_tokens", "8", "--temperature", "0", "--ignore_eos"}));
  absl::SleepFor(absl::Milliseconds(300));
  Start();
  EXPECT_EQ(client.Wait(kStartTimeout), 0) << client.Err();
  EXPECT_NE(client.Err().find("8"), std::string::npos) << client.Err();
}

TEST_F(Serve, TheClientGivesUpWhenNobodyServes) {
  const CommandResult result = RunCommand(
      Polystrate({"client", "--target", address_, "--prompt", "hello", "--ready_timeout", "0.5"}));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find(address_), std::string::npos);
}

}  // namespace
}  // namespace polystrate
