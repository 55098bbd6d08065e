// `polystrate launch` as people run it: engines under mpirun, ended in every way there is.

#include "absl/strings/match.h"
#include "tests/e2e/lifecycle.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

class LaunchTest : public Lifecycle {
 protected:
  LaunchTest() : address_b_(absl::StrCat("127.0.0.1:", FreePort())) {
    WriteCluster(absl::StrCat("engines:\n- {name: a, tp: 2, listen: \"", address_,
                              "\"}\n- {name: b, listen: \"", address_b_, "\"}\n"));
  }

  std::string cluster() const { return dir_.File("cluster.yaml"); }
  void WriteCluster(const std::string& engines) {
    WriteFile(cluster(),
              absl::StrCat("hosts: [{name: localhost, slots: 8}]\nprogram: ",
                           BuiltProgram("polystrate"), "\nmpirun: {args: [--allow-run-as-root]}\n",
                           "defaults: {model: ", dir_.path(), ", kv_memory: 67108864, threads: 1, ",
                           "drain_timeout: 5}\nrestart: {first: 100ms}\n", engines));
  }
  void LaunchCluster(const CommandLine& more = {}) {
    CommandLine command = Polystrate({"launch", cluster()});
    command.insert(command.end(), more.begin(), more.end());
    Launch(command);
  }
  void StartCluster() {
    LaunchCluster();
    ASSERT_TRUE(WaitForLines("] serve: SERVING", 2)) << engine_->Err();
  }
  bool WaitForLines(const std::string& text, int count) const {
    for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
      const std::vector<std::string> parts = absl::StrSplit(engine_->Err(), text);
      if (static_cast<int>(parts.size()) > count) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  // The launcher, mpirun and ranks: all have an engine's address or the file in their command line.
  void ExpectNothingLeft() const {
    EXPECT_TRUE(AllGone(address_, kAllGone)) << engine_->Err();
    EXPECT_TRUE(AllGone(address_b_, kAllGone)) << engine_->Err();
    EXPECT_TRUE(AllGone(cluster(), kAllGone)) << engine_->Err();
  }
  pid_t PidOfMpirun() const {
    for (pid_t pid : ProcessesWith(absl::StrCat("--listen=", address_))) {
      if (absl::StartsWith(ReadFile(absl::StrCat("/proc/", pid, "/cmdline")), "mpirun")) return pid;
    }
    return -1;
  }
  pid_t PidOf(int rank) const {
    for (pid_t pid : ProcessesWith(absl::StrCat("--listen=", address_))) {
      if (pid != PidOfMpirun() && RankOf(pid) == rank) return pid;
    }
    return -1;
  }

  const std::string address_b_;
};

TEST_F(LaunchTest, DrainsInOrder) {
  StartCluster();
  EXPECT_TRUE(absl::StrContains(engine_->Err(), "[engine a rank 0] serve: SERVING"));
  EXPECT_TRUE(absl::StrContains(engine_->Err(), "[engine b] serve: SERVING"));
  auto stream = Generate(500);
  ASSERT_TRUE(stream->WaitForToken());
  engine_->Signal(SIGTERM);
  EXPECT_TRUE(stream->WaitForEnd().ok());
  EXPECT_EQ(stream->num_tokens(), 500);
  EXPECT_EQ(engine_->Wait(kPatience), 0) << engine_->Err();
  ExpectNothingLeft();
}

// What people run it for: an engine dies under a client of the coordinator, who never learns of it.
TEST_F(LaunchTest, NothingIsLostBehindACoordinator) {
  const std::string front = absl::StrCat("127.0.0.1:", FreePort());
  WriteCluster(absl::StrCat("engines:\n- {name: a, tp: 2, listen: \"", address_,
                            "\"}\n- {name: b, listen: \"", address_b_,
                            "\"}\ncoordinator: {listen: \"", front, "\"}\n"));
  StartCluster();
  ASSERT_TRUE(WaitForLines("[coordinator] coordinator: SERVING", 1)) << engine_->Err();
  const auto channel = grpc::CreateChannel(front, grpc::InsecureChannelCredentials());
  constexpr int kTokens = 4000;
  std::vector<std::unique_ptr<LiveStream>> streams;
  for (int i = 0; i < 4; ++i) streams.push_back(std::make_unique<LiveStream>(channel, kTokens));
  for (const auto& stream : streams) ASSERT_TRUE(stream->WaitForToken());
  kill(PidOf(1), SIGKILL);
  ASSERT_TRUE(engine_->WaitForOutput("; it starts again in", kPatience)) << engine_->Err();
  engine_->Signal(SIGTERM);  // the streams are finished first
  for (const auto& stream : streams) {
    const grpc::Status status = stream->WaitForEnd();
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(stream->num_tokens(), kTokens);
  }
  EXPECT_EQ(engine_->Wait(kPatience), 0) << engine_->Err();
  ExpectNothingLeft();
  EXPECT_TRUE(AllGone(front, kAllGone));
}

// Whichever process of an engine dies, it is back and serves; the other one never noticed.
TEST_F(LaunchTest, StartsAgainWhatDies) {
  StartCluster();
  const auto other = grpc::CreateChannel(address_b_, grpc::InsecureChannelCredentials());
  LiveStream undisturbed(other, 60000);
  ASSERT_TRUE(undisturbed.WaitForToken());
  int serving = 2;
  for (const char* victim : {"rank 1", "mpirun"}) {
    SCOPED_TRACE(victim);
    const pid_t pid = victim[0] == 'm' ? PidOfMpirun() : PidOf(1);
    ASSERT_GT(pid, 0);
    kill(pid, SIGKILL);
    ASSERT_TRUE(WaitForLines("] serve: SERVING", ++serving)) << engine_->Err();
    // One of each, none of the last start.
    EXPECT_EQ(ProcessesWith(absl::StrCat("--listen=", address_)).size(), 3u) << engine_->Err();
    const auto stream = Generate(3);
    EXPECT_TRUE(stream->WaitForEnd().ok());
  }
  EXPECT_FALSE(undisturbed.finished());
  const int before = undisturbed.num_tokens();
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_GT(undisturbed.num_tokens(), before);
  engine_->Signal(SIGTERM);
  ASSERT_TRUE(engine_->WaitForOutput("launch: signal 15: draining", kPatience));
  const absl::Time asked = absl::Now();
  engine_->Signal(SIGTERM);  // now
  EXPECT_EQ(engine_->Wait(kPatience), 1) << engine_->Err();
  EXPECT_LT(absl::Now() - asked, absl::Seconds(8));
  ExpectNothingLeft();
}

TEST_F(LaunchTest, KilledItLeavesNothing) {
  StartCluster();
  kill(PidOf(1), SIGSTOP);  // not even what cannot act any more
  engine_->Signal(SIGKILL);
  ExpectNothingLeft();
}

TEST_F(LaunchTest, DuringStartUp) {
  LaunchCluster();
  ASSERT_TRUE(engine_->WaitForOutput("engine b starts", kPatience));
  engine_->Signal(SIGINT);
  EXPECT_TRUE(engine_->Wait(kPatience).has_value()) << engine_->Err();
  ExpectNothingLeft();
}

TEST_F(LaunchTest, DryRunPrintsWhatRuns) {
  const CommandResult dry = RunCommand(Polystrate({"launch", cluster(), "--dry_run"}));
  EXPECT_EQ(dry.exit_code, 0) << dry.err;
  StartCluster();
  int lines = 0;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(dry.out, '\n'))) {
    if (line.empty() || line[0] == '#') continue;
    ++lines;
    EXPECT_TRUE(absl::StrContains(engine_->Err(), line + "\n")) << line << "\n--\n"
                                                                << engine_->Err();
  }
  EXPECT_EQ(lines, 2);
  engine_->Signal(SIGTERM);
  EXPECT_EQ(engine_->Wait(kPatience), 0);
}

TEST_F(LaunchTest, MistakesAreSaidAndNothingStarts) {
  const struct {
    std::string engines;
    const char* said;
  } cases[] = {
      {"engines:\n- {name: a, tp: 2, lisen: x}",
       "cluster.yaml:7:20: an engine has no \"lisen\"; "
       "did you mean \"listen\"?"},
      {"engines:\n- {name: a, tp: 16}", "tp 16 * pp 1 = 16 ranks need a slot each; free are 8"},
      {"engines:\n- {name: a, tp: 4}", "--tp 4"},
      {"engines:\n- {name: a, pp: 3}", "--pp"},
      {"engines:\n- {name: a, model: /nonexistent}", "/nonexistent"},
      {"engines:\n- {name: a, listen: \"192.0.2.1:1\"}", "192.0.2.1"},
      {"hosts: []", "is there twice"},
  };
  for (const auto& wrong : cases) {
    SCOPED_TRACE(wrong.engines);
    WriteCluster(wrong.engines);
    const CommandResult result = RunCommand(Polystrate({"launch", cluster()}));
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_TRUE(absl::StrContains(result.err, wrong.said)) << result.err;
    EXPECT_FALSE(absl::StrContains(result.err, "starts, pid")) << result.err;
  }
}

}  // namespace
}  // namespace polystrate
