// The fault matrix: under live streams through a coordinator over two engines everything that can
// happen to an engine happens, and no client loses a request or sees a wrong or repeated token.
// Each case prints rows of the table in docs/cluster.md:
//   POLYSTRATE_FULL_TESTS=1 build/cpu/tests/e2e_fault_matrix_test | grep '^|'

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel_posix.h"
#include "tests/e2e/fault_requests.h"
#include "tests/e2e/fault_rig.h"
#include "tests/e2e/served_ranks.h"
#include "tests/testing/full_length.h"
#include "tests/testing/network_hosts.h"
#include "tests/testing/tcp_socket.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

class FaultMatrix : public ::testing::Test {
 protected:
  FaultMatrix() : requests_(FaultRequests(Length(160, 400))) {
    ServedRanksOptions one_process;
    one_process.pp_size = 1;
    one_process.model.num_layers = 6;
    one_process.model.num_kv_layers = 3;
    WriteTinyModel(dir_.path(), one_process.model);
    WriteFile(dir_.File("tokenizer.json"), ReadFile(SourceFile("models/demo/tokenizer.json")));
    one_process.model_dir = dir_.path();
    expected_ = AskAll(ServedRanks(one_process).channel(), requests_);
  }

  CommandLine Serve(const std::string& address, int tp, int pp,
                    const CommandLine& more = {"--rank_timeout", "1.5"}) const {
    CommandLine command =
        Polystrate({"serve", "--model", dir_.path(), "--tp", std::to_string(tp), "--pp",
                    std::to_string(pp), "--listen", address, "--kv_memory", "16777216", "--threads",
                    "1", "--drain_timeout", "1", "--max_model_len", "16384"});
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  static CommandLine Coordinate(const std::string& address, const std::vector<Place>& engines) {
    CommandLine command = Polystrate({"coordinator", "--listen", address, "--engine_timeout", "2"});
    for (const Place& engine : engines) {
      command.insert(command.end(), {"--engine", engine.address});
    }
    return command;
  }
  // Two engines and a coordinator on this machine.
  void Start(int tp, int pp, const CommandLine& engine_flags = {}) {
    CommandLine flags = {"--rank_timeout", "1.5"};
    flags.insert(flags.end(), engine_flags.begin(), engine_flags.end());
    std::vector<Place> engines;
    for (int i = 0; i < 2; ++i) {
      const std::string address = absl::StrCat("127.0.0.1:", FreePort());
      engines.push_back({address, Mpirun(tp * pp, Serve(address, tp, pp, flags))});
    }
    const std::string address = absl::StrCat("127.0.0.1:", FreePort());
    rig_ =
        std::make_unique<FaultRig>(engines, Place{address, Coordinate(address, engines)}, Connect);
  }
  static std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  }

  FaultRow Strike(const FaultRig::Fault& fault) {
    FaultLoad load(rig_->channel(), requests_, expected_, Length(16, 64));
    return rig_->Strike(fault, &load);
  }
  void Signal(int engine, int rank, int number) { kill(rig_->engine(engine).Rank(rank), number); }
  // Nothing is live and no block is held, anywhere.
  bool AllIdle() {
    return rig_->Await([this] {
      for (int i = 0; i < 2; ++i) {
        const pb::LoadInfo load = LoadOf(i);
        if (load.running_requests() + load.queued_requests() + load.used_kv_blocks() > 0) {
          return false;
        }
        if (rig_->StatusOf(i).streams() > 0) return false;
      }
      return true;
    });
  }
  pb::LoadInfo LoadOf(int engine) {
    grpc::ClientContext context;
    pb::LoadInfo load;
    pb::Control::NewStub(Connect(rig_->engine(engine).address()))
        ->GetLoad(&context, pb::GetLoadRequest(), &load);
    return load;
  }

  TempDir dir_;
  const std::vector<pb::GenerateRequest> requests_;
  std::vector<Transcript> expected_;
  std::unique_ptr<FaultRig> rig_;
};

class FaultMatrixOfRanks : public FaultMatrix, public ::testing::WithParamInterface<int> {};

TEST_P(FaultMatrixOfRanks, ARankIsKilled) {
  Start(/*tp=*/2, /*pp=*/2);
  const int rank = GetParam();
  const int victim = rank % 2;
  Strike({absl::StrCat("SIGKILL of rank ", rank, " (stage ", rank / 2, ", tp ", rank % 2, ")"),
          {victim},
          [&] { Signal(victim, rank, SIGKILL); }});
}
INSTANTIATE_TEST_SUITE_P(Each, FaultMatrixOfRanks, ::testing::Range(0, 4));

TEST_F(FaultMatrix, AMiddleStageIsKilled) {
  Start(/*tp=*/1, /*pp=*/3);
  Strike({"SIGKILL of the middle one of three stages", {0}, [&] { Signal(0, 1, SIGKILL); }});
}

TEST_F(FaultMatrix, BothEnginesAreKilled) {
  Start(/*tp=*/2, /*pp=*/2);
  Strike({"SIGKILL of a rank of both engines", {0, 1}, [&] {
            Signal(0, 1, SIGKILL);
            Signal(1, 2, SIGKILL);
          }});
}

TEST_F(FaultMatrix, MpirunIsKilled) {
  Start(/*tp=*/2, /*pp=*/2);
  Strike({"SIGKILL of mpirun", {1}, [&] { kill(rig_->engine(1).Program("mpirun"), SIGKILL); }});
}

TEST_F(FaultMatrix, ARankHangs) {
  Start(/*tp=*/2, /*pp=*/2);
  Strike({"SIGSTOP of rank 3, `--rank_timeout 1.5`", {0}, [&] { Signal(0, 3, SIGSTOP); }});
}

TEST_F(FaultMatrix, RankZeroHangs) {
  Start(/*tp=*/2, /*pp=*/2);
  Strike({"SIGSTOP of rank 0, `--rank_timeout 1.5`", {1}, [&] { Signal(1, 0, SIGSTOP); }});
}

// All its ranks at once: none of them misses another.
TEST_F(FaultMatrix, AWholeEngineFreezesAndComesBack) {
  Start(/*tp=*/2, /*pp=*/2);
  std::vector<pid_t> ranks;
  for (int rank = 0; rank < 4; ++rank) ranks.push_back(rig_->engine(0).Rank(rank));
  const auto signal_all = [&](int number) {
    for (const pid_t pid : ranks) kill(pid, number);
  };
  Strike({"SIGSTOP of all ranks, later SIGCONT; `--engine_timeout 2`",
          {0},
          [&] { signal_all(SIGSTOP); },
          [&] { signal_all(SIGCONT); }});
  EXPECT_TRUE(AllIdle()) << "what was carried away is forgotten there";
  EXPECT_EQ(rig_->engine(0).starts(), 1);
}

TEST_F(FaultMatrix, AnEngineIsDrained) {
  Start(/*tp=*/2, /*pp=*/2);
  Strike({"SIGUSR1 at mpirun, `--drain_timeout 1`", {0}, [&] {
            kill(rig_->engine(0).Program("mpirun"), SIGUSR1);
          }});
}

TEST_F(FaultMatrix, TheDiskForLogsIsFull) {
  Start(/*tp=*/2, /*pp=*/2, {"--request_log", "/dev/full"});
  Strike({"a full disk for `--request_log`, and SIGKILL of rank 2", {0}, [&] {
            Signal(0, 2, SIGKILL);
          }});
}

// Its own death alone costs requests: those that go through it. Their clients are told at once and
// are served again as soon as it is back.
TEST_F(FaultMatrix, TheCoordinatorIsKilled) {
  Start(/*tp=*/2, /*pp=*/2);
  FaultLoad load(rig_->channel(), requests_, expected_, Length(16, 64));
  rig_->AwaitEvents(&load, 300);
  const absl::Time fault = absl::Now();
  kill(rig_->coordinator().process().pid(), SIGKILL);
  EXPECT_TRUE(rig_->Await([&] { return rig_->coordinator().starts() == 2; }));
  EXPECT_TRUE(rig_->AwaitAllServing());
  const absl::Time back = absl::Now();
  rig_->AwaitEvents(&load, 300);
  FaultRow row;
  row.fault = "SIGKILL of the coordinator; next token from when it serves again";
  for (const FaultCall& call : load.Stop()) {
    row.wrong += call.wrong.empty() ? 0 : 1;
    EXPECT_EQ(call.wrong, "");
    if (!call.finished) {
      EXPECT_EQ(call.status.error_code(), grpc::StatusCode::UNAVAILABLE)
          << call.status.error_message();
      EXPECT_LT(call.begin, back) << call.status.error_message();
    }
    if (call.begin < fault && call.end > fault) {
      ++row.streams;
      row.lost += call.finished ? 0 : 1;
    }
    if (call.begin > fault && call.finished && row.pauses_ms.size() < 16) {
      row.pauses_ms.push_back(std::max(0.0, absl::ToDoubleMilliseconds(call.tokens[0] - back)));
    }
  }
  row.carried = row.streams;
  std::sort(row.pauses_ms.begin(), row.pauses_ms.end());
  row.Print();
  EXPECT_TRUE(AllIdle());
}

// A client whose connection breaks in the middle of a stream, again and again.
void DieOften(const std::string& address, const std::atomic<bool>& enough) {
  while (!enough) {
    const int fd = ConnectTcp(address).value();
    const int own = dup(fd);
    {
      const auto channel = grpc::CreateInsecureChannelFromFd("coordinator", fd);
      OpenStream stream(*pb::Inference::NewStub(channel), GreedyRequest(2000));
      stream.WaitForTokens();
      shutdown(own, SHUT_RDWR);
    }
    close(own);
  }
}

TEST_F(FaultMatrix, ClientsAreSlowOrDie) {
  Start(/*tp=*/2, /*pp=*/2);
  FaultLoad slow(rig_->channel(), requests_, expected_, 4, absl::Milliseconds(20));
  std::atomic<bool> enough{false};
  std::vector<std::thread> dying;
  for (int i = 0; i < 4; ++i) {
    dying.emplace_back(DieOften, rig_->coordinator().address(), std::cref(enough));
  }
  {
    const auto stub = pb::Inference::NewStub(rig_->channel());
    OpenStream never_reads(*stub, GreedyRequest(10000));
    Strike({"4 slow and 4 dying clients, one that never reads, and SIGKILL of rank 1", {1}, [&] {
              Signal(1, 1, SIGKILL);
            }});
  }
  enough = true;
  for (std::thread& thread : dying) thread.join();
  for (const FaultCall& call : slow.Stop()) {
    EXPECT_TRUE(call.finished) << call.status.error_message();
    EXPECT_EQ(call.wrong, "");
  }
  EXPECT_TRUE(AllIdle());
}

// While its long prompt is computed, whichever engine does it dies.
TEST_F(FaultMatrix, ARequestThatKillsEnginesFailsAndTakesNobodyAlong) {
  // Small steps, so that the prompt takes long enough to be seen on a fast machine too.
  Start(/*tp=*/2, /*pp=*/2, {"--max_num_batched_tokens", "64"});
  FaultLoad innocent(rig_->channel(), requests_, expected_, 4);
  rig_->AwaitEvents(&innocent, 100);
  pb::GenerateRequest poison = GreedyRequest(100);
  poison.mutable_token_ids()->mutable_ids()->Resize(12000, 5);
  FaultCall call;
  std::atomic<bool> over{false};
  std::thread client([&] {
    CallOnce(
        *pb::Inference::NewStub(rig_->channel()), poison, [] {}, &call);
    over = true;
  });
  int deaths = 0;
  EXPECT_TRUE(rig_->Await([&] {
    for (int i = 0; i < 2; ++i) {
      if (LoadOf(i).running_tokens() < 3000) continue;
      Signal(i, 1, SIGKILL);
      ++deaths;
      rig_->Await([&] { return LoadOf(i).running_tokens() < 3000; });
    }
    return over.load();
  }));
  client.join();
  EXPECT_FALSE(call.finished);
  EXPECT_GE(deaths, 2);
  EXPECT_LE(deaths, 3) << "tried alone once where others were aboard each time";
  EXPECT_TRUE(rig_->AwaitAllServing());
  for (const FaultCall& other : innocent.Stop()) {
    EXPECT_TRUE(other.finished) << other.status.error_message();
    EXPECT_EQ(other.wrong, "");
  }
}

// An engine over hosts 0 and 1, one over 2 and 3, coordinator and client on 4.
TEST_F(FaultMatrix, LinksAreCut) {
  if (const std::string why = NetworkHosts::WhyNot(); !why.empty()) GTEST_SKIP() << why;
  const NetworkHosts hosts(5);
  std::vector<Place> engines;
  for (const int first : {0, 2}) {
    const std::string address = absl::StrCat(hosts.Address(first), ":", FreePort());
    engines.push_back(
        {address,
         hosts.Mpirun({{first, 2}, {first + 1, 2}},
                      Serve(address, /*tp=*/2, /*pp=*/2, {"--rank_timeout", "6"}),
                      {"--mca", "oob_tcp_keepalive_time", "1", "--mca", "oob_tcp_keepalive_intvl",
                       "1", "--mca", "oob_tcp_keepalive_probes", "2"})});
  }
  const std::string address = absl::StrCat(hosts.Address(4), ":", FreePort());
  rig_ = std::make_unique<FaultRig>(
      engines, Place{address, hosts.On(4, Coordinate(address, engines))},
      [&](const std::string& target) {
        return grpc::CreateInsecureChannelFromFd(target, hosts.Connect(4, target).value());
      });
  Strike({"link between two stages cut", {0}, [&] { hosts.Cut(1); }, [&] { hosts.Heal(1); }});
  Strike({"rank 0's host cut off, `--engine_timeout 2`",
          {1},
          [&] { hosts.Cut(2); },
          [&] { hosts.Heal(2); }});
  rig_.reset();  // before the hosts
}

}  // namespace
}  // namespace polystrate
