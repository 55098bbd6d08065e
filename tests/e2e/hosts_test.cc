// Engines over several hosts: mpirun starts ranks on each over a network, a client is on one of its
// own, hosts die and cables are pulled.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/create_channel_posix.h"
#include "tests/e2e/lifecycle.h"
#include "tests/e2e/served_ranks.h"
#include "tests/testing/network_hosts.h"

namespace polystrate {
namespace {

constexpr int kClientHost = 3;
constexpr int64_t kHiddenBytes = 48 * sizeof(float);  // of a token, between stages

class Hosts : public ::testing::Test {
 protected:
  struct Engine {
    std::string address;
    std::unique_ptr<Process> mpirun;
    std::shared_ptr<grpc::Channel> channel;  // from the client's host
  };

  void SetUp() override {
    if (const std::string why = NetworkHosts::WhyNot(); !why.empty()) GTEST_SKIP() << why;
    hosts_ = std::make_unique<NetworkHosts>(4);
    WriteTinyModel(dir_.path(), ServedRanksOptions().model);
    WriteFile(dir_.File("tokenizer.json"), ReadFile(SourceFile("models/demo/tokenizer.json")));
  }

  // TP inside a host, one stage on each of `over`.
  Engine Launch(const std::vector<int>& over, const CommandLine& flags = {},
                const CommandLine& mpirun_flags = {}) const {
    Engine engine;
    engine.address = absl::StrCat(hosts_->Address(over.front()), ":", FreePort());
    CommandLine command =
        Polystrate({"serve", "--model", dir_.path(), "--tp", "2", "--pp",
                    std::to_string(over.size()), "--listen", engine.address, "--kv_memory",
                    "67108864", "--threads", "1", "--max_num_batched_tokens", "2048"});
    command.insert(command.end(), flags.begin(), flags.end());
    std::vector<NetworkHosts::Slots> slots;
    for (const int host : over) slots.push_back({host, 2});
    engine.mpirun = std::make_unique<Process>(hosts_->Mpirun(slots, command, mpirun_flags));
    return engine;
  }
  void WaitUntilServing(Engine* engine) const {
    ASSERT_TRUE(engine->mpirun->WaitForOutput("SERVING", kPatience)) << engine->mpirun->Err();
    const absl::StatusOr<int> socket = hosts_->Connect(kClientHost, engine->address);
    ASSERT_TRUE(socket.ok()) << socket.status();
    engine->channel = grpc::CreateInsecureChannelFromFd(engine->address, *socket);
  }
  static std::vector<std::unique_ptr<LiveStream>> LongStreams(const Engine& engine, int n) {
    std::vector<std::unique_ptr<LiveStream>> streams;
    for (int i = 0; i < n; ++i)
      streams.push_back(std::make_unique<LiveStream>(engine.channel, 30000));
    for (const auto& stream : streams) EXPECT_TRUE(stream->WaitForToken());
    return streams;
  }
  static void ExpectUnavailable(const std::vector<std::unique_ptr<LiveStream>>& streams,
                                absl::Time since, absl::Duration within) {
    for (const auto& stream : streams) {
      const grpc::Status status = stream->WaitForEnd();
      EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
      EXPECT_FALSE(stream->finished());
      EXPECT_LT(stream->ended() - since, within);
    }
  }
  pid_t PidOfRank(const Engine& engine, int rank) const {
    for (const pid_t pid : ProcessesWith(absl::StrCat("--listen ", engine.address))) {
      if (RankOf(pid) == rank) return pid;
    }
    ADD_FAILURE() << "no rank " << rank;
    return -1;
  }
  // Ranks, and whatever Open MPI has started there.
  bool NothingRunsOn(int host, absl::Duration timeout = kAllGone) const {
    const absl::Time deadline = absl::Now() + timeout;
    while (!hosts_->ProcessesOn(host).empty()) {
      if (absl::Now() >= deadline) return false;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return true;
  }
  int RanksOn(int host) const {
    int ranks = 0;
    for (const pid_t pid : hosts_->ProcessesOn(host)) ranks += RankOf(pid) >= 0 ? 1 : 0;
    return ranks;
  }
  bool NoRanksOn(int host) const {
    for (const absl::Time end = absl::Now() + kAllGone; absl::Now() < end;) {
      if (RanksOn(host) == 0) return true;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return false;
  }

  TempDir dir_;
  std::unique_ptr<NetworkHosts> hosts_;
};

std::vector<pb::GenerateRequest> Requests() {
  std::vector<pb::GenerateRequest> requests = {GreedyRequest(40), GreedyRequest(40),
                                               GreedyRequest(40)};
  requests[1].set_prompt("One day a little fox went into the forest.");
  requests[2].set_prompt("The sun was warm, and");
  pb::SamplingParams& sampling = *requests[2].mutable_sampling();
  sampling.set_temperature(0.9);
  sampling.set_top_p(0.9);
  sampling.set_seed(77);
  sampling.set_frequency_penalty(0.5);
  return requests;
}

// The tokens of all requests, and their texts.
std::string Answers(const std::shared_ptr<grpc::Channel>& channel) {
  const auto stub = pb::Inference::NewStub(channel);
  std::string text;
  for (const pb::GenerateRequest& request : Requests()) {
    const Answer answer = Ask(*stub, request);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.ids.size(), 40u);
    for (const uint32_t id : answer.ids) absl::StrAppend(&text, id, " ");
    absl::StrAppend(&text, answer.text, "\n");
  }
  return text;
}

v1::GetStagesResponse Stages(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  v1::GetStagesResponse stages;
  const grpc::Status status =
      v1::Admin::NewStub(channel)->GetStages(&context, v1::GetStagesRequest(), &stages);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return stages;
}

TEST_F(Hosts, AnEngineOverTwoAndAnotherBesideItAnswerAsOneProcessDoes) {
  Engine wide = Launch({0, 1});
  Engine beside = Launch({2});
  ServedRanksOptions one_process;
  one_process.pp_size = 1;
  one_process.model_dir = dir_.path();
  ServedRanks reference(one_process);
  const std::string expected = Answers(reference.channel());
  WaitUntilServing(&wide);
  WaitUntilServing(&beside);
  EXPECT_EQ(Answers(wide.channel), expected);
  EXPECT_EQ(Answers(beside.channel), expected);

  const v1::GetStagesResponse stages = Stages(wide.channel);
  ASSERT_EQ(stages.ranks_size(), 4);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(stages.ranks(rank).host(), hosts_->Name(rank / 2));
    EXPECT_EQ(stages.ranks(rank).pp_rank(), static_cast<uint32_t>(rank / 2));
  }
  EXPECT_EQ(Stages(beside.channel).ranks(1).host(), hosts_->Name(2));

  v1::DrainResponse response;
  grpc::ClientContext context;
  LiveStream last(wide.channel, 300);
  ASSERT_TRUE(last.WaitForToken());
  EXPECT_TRUE(v1::Admin::NewStub(wide.channel)->Drain(&context, {}, &response).ok());
  EXPECT_TRUE(last.WaitForEnd().ok());
  EXPECT_EQ(last.num_tokens(), 300);
  EXPECT_EQ(wide.mpirun->Wait(kPatience), 0) << wide.mpirun->Err();
  EXPECT_TRUE(NothingRunsOn(0));
  EXPECT_TRUE(NothingRunsOn(1));
  EXPECT_EQ(Answers(beside.channel), expected);
}

TEST_F(Hosts, OnlyHiddenStatesCrossTheNetwork) {
  constexpr int kPromptTokens = 4096;
  Engine engine = Launch({0, 1});
  WaitUntilServing(&engine);
  pb::GenerateRequest request = GreedyRequest(1);
  for (int i = 3; i < kPromptTokens; ++i) request.mutable_token_ids()->add_ids(1 + i % 1000);
  const NetworkHosts::Traffic before = hosts_->TrafficOf(1);
  EXPECT_TRUE(Ask(*pb::Inference::NewStub(engine.channel), request).status.ok());
  const NetworkHosts::Traffic after = hosts_->TrafficOf(1);
  // Each rank of a stage sends to its peer in the next. Beside that are plans, beats and headers;
  // the sums of one layer, if they crossed, would be as much again.
  const int64_t hidden = 2 * kPromptTokens * kHiddenBytes;
  EXPECT_GT(after.received - before.received, hidden);
  EXPECT_LT(after.received - before.received, hidden + hidden / 4);
  EXPECT_LT(after.sent - before.sent, hidden / 4);
}

TEST_F(Hosts, ARankThatDiesOnTheOtherHostEndsAll) {
  Engine engine = Launch({0, 1});
  WaitUntilServing(&engine);
  const auto streams = LongStreams(engine, 3);
  const pid_t pid = PidOfRank(engine, 3);
  const absl::Time killed = absl::Now();
  kill(pid, SIGKILL);
  ExpectUnavailable(streams, killed, absl::Seconds(1));
  EXPECT_TRUE(engine.mpirun->Wait(kPatience).has_value());
  EXPECT_TRUE(NothingRunsOn(0));
  EXPECT_TRUE(NothingRunsOn(1));
  EXPECT_TRUE(engine.mpirun->WaitForOutput("lost rank 3 (stage 1, tp 1) on host2", kPatience));
}

TEST_F(Hosts, ACutLinkIsNoticedByTheSilenceOfItsRanks) {
  Engine engine = Launch({0, 1}, {"--rank_timeout", "1.5"});
  WaitUntilServing(&engine);
  const auto streams = LongStreams(engine, 3);
  const absl::Time cut = absl::Now();
  hosts_->Cut(1);
  ExpectUnavailable(streams, cut, absl::Seconds(4));
  EXPECT_TRUE(engine.mpirun->WaitForOutput("on host2, pid ", kPatience));
  EXPECT_TRUE(absl::StrContains(engine.mpirun->Err(), "no word from it for 1.5s"));
  EXPECT_TRUE(NoRanksOn(0));
  EXPECT_TRUE(NoRanksOn(1)) << "cut off, they end by themselves";
  // mpirun and its daemon wait for each other, which a supervisor ends.
  EXPECT_FALSE(hosts_->ProcessesOn(0).empty());
  for (const pid_t pid : hosts_->ProcessesOn(0)) kill(pid, SIGKILL);
  hosts_->Heal(1);
  EXPECT_TRUE(NothingRunsOn(1));
}

TEST_F(Hosts, KeepalivesOfOpenMpiEndItsDaemonsTooWhenTheLinkIsCut) {
  Engine engine =
      Launch({0, 1}, {"--rank_timeout", "8"},
             {"--mca", "oob_tcp_keepalive_time", "1", "--mca", "oob_tcp_keepalive_intvl", "1",
              "--mca", "oob_tcp_keepalive_probes", "2"});
  WaitUntilServing(&engine);
  const auto streams = LongStreams(engine, 3);
  const absl::Time cut = absl::Now();
  hosts_->Cut(1);
  ExpectUnavailable(streams, cut, absl::Seconds(8));
  EXPECT_TRUE(engine.mpirun->Wait(kPatience).has_value());
  EXPECT_NE(engine.mpirun->Wait(kPatience), 0);
  EXPECT_TRUE(NothingRunsOn(0));
  EXPECT_TRUE(NothingRunsOn(1));
}

// The kernel ends them with the thread that has made them, however that ends.
TEST_F(Hosts, NothingOnThemOutlivesATestThatIsKilled) {
  const CommandLine command = {"sleep", absl::StrCat("86400.", getpid())};
  std::unique_ptr<NetworkHosts> hosts;
  std::unique_ptr<Process> sleeper;
  std::thread([&] {
    hosts = std::make_unique<NetworkHosts>(1);
    sleeper = std::make_unique<Process>(hosts->On(0, command));
    for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
      if (hosts->ProcessesOn(0).size() == 1) break;  // what leads there has become the sleeper
      absl::SleepFor(absl::Milliseconds(5));
    }
    EXPECT_EQ(hosts->ProcessesOn(0).size(), 1u);
  }).join();
  EXPECT_TRUE(AllGone(command[1], kAllGone));
}

}  // namespace
}  // namespace polystrate
