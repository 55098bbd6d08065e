// `polystrate launch` over several hosts: what it starts there, what --check finds, and that
// nothing stays on any of them.

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/e2e/lifecycle.h"
#include "tests/testing/network_hosts.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

class LaunchHosts : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = NetworkHosts::WhyNot(); !why.empty()) GTEST_SKIP() << why;
    hosts_ = std::make_unique<NetworkHosts>(3);
    TinyModelSpec spec;
    spec.num_kv_layers = 2;
    WriteTinyModel(dir_.path(), spec);
    WriteCluster(hosts_->Agent());
  }
  std::string cluster() const { return dir_.File("cluster.yaml"); }

  // An engine with a stage on each of two hosts, and one on a third, to be launched on the first.
  void WriteCluster(const std::string& agent) {
    std::string text = "hosts:\n";
    for (const int host : {0, 1, 2}) {
      absl::StrAppend(&text, "- {name: ", hosts_->Address(host), ", slots: 2}\n");
    }
    absl::StrAppend(&text, "program: ", BuiltProgram("polystrate"), "\nmpirun: {ssh: ", agent,
                    ", interface: ", NetworkHosts::Subnet(), ", args: [--allow-run-as-root]}\n");
    absl::StrAppend(&text, "defaults: {model: ", dir_.path(),
                    ", kv_memory: 16777216, threads: 1, drain_timeout: 5}\n");
    absl::StrAppend(&text, "restart: {first: 100ms}\nengines:\n");
    absl::StrAppend(&text, "- {name: a, tp: 2, pp: 2, listen: \"", hosts_->Address(0),
                    ":20001\"}\n");
    absl::StrAppend(&text, "- {name: b, tp: 2, listen: \"", hosts_->Address(2), ":20001\"}\n");
    WriteFile(cluster(), text);
  }
  CommandLine Command(const CommandLine& more = {}) const {
    CommandLine command = Polystrate({"launch", cluster()});
    command.insert(command.end(), more.begin(), more.end());
    return hosts_->On(0, command);
  }
  void Start() {
    launcher_ = std::make_unique<Process>(Command());
    ASSERT_TRUE(WaitForServing(2)) << launcher_->Err();
  }
  bool WaitForServing(int count) const {
    for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
      const std::vector<std::string> parts = absl::StrSplit(launcher_->Err(), "serve: SERVING");
      if (static_cast<int>(parts.size()) > count) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  // What waits above the launcher forwards no signal.
  void Signal(int number) const {
    const std::vector<pid_t> here = hosts_->ProcessesOn(0);
    for (const pid_t pid : ProcessesWith(cluster())) {
      if (std::find(here.begin(), here.end(), pid) != here.end()) kill(pid, number);
    }
  }
  std::vector<pid_t> RanksOn(int host) const {
    std::vector<pid_t> ranks;
    for (const pid_t pid : hosts_->ProcessesOn(host)) {
      if (RankOf(pid) >= 0) ranks.push_back(pid);
    }
    return ranks;
  }
  void ExpectNothingRuns() const {
    for (const int host : {0, 1, 2}) {
      const absl::Time deadline = absl::Now() + kPatience;
      while (!hosts_->ProcessesOn(host).empty() && absl::Now() < deadline) {
        absl::SleepFor(absl::Milliseconds(20));
      }
      std::string left;
      for (const pid_t pid : hosts_->ProcessesOn(host)) {
        absl::StrAppend(&left, RunCommand({"ps", "-o", "args=", "-p", absl::StrCat(pid)}).out);
      }
      EXPECT_EQ(left, "") << host << "\n" << launcher_->Err();
    }
  }

  TempDir dir_;
  std::unique_ptr<NetworkHosts> hosts_;
  std::unique_ptr<Process> launcher_;
};

TEST_F(LaunchHosts, RunsAndDrains) {
  Start();
  for (const int host : {0, 1, 2}) EXPECT_EQ(RanksOn(host).size(), 2u) << host;
  kill(RanksOn(1)[1], SIGKILL);
  ASSERT_TRUE(WaitForServing(3)) << launcher_->Err();
  for (const int host : {0, 1, 2}) EXPECT_EQ(RanksOn(host).size(), 2u) << host;
  Signal(SIGTERM);
  EXPECT_EQ(launcher_->Wait(kPatience), 0) << launcher_->Err();
  ExpectNothingRuns();
}

TEST_F(LaunchHosts, KilledItLeavesNothingAnywhere) {
  Start();
  Signal(SIGKILL);
  EXPECT_EQ(launcher_->Wait(kPatience), 128 + SIGKILL);
  ExpectNothingRuns();
}

TEST_F(LaunchHosts, ChecksEveryHost) {
  const CommandResult good = RunCommand(Command({"--check"}));
  EXPECT_EQ(good.exit_code, 0) << good.out << good.err;
  for (const int host : {1, 2}) {
    for (const char* what : {"ssh", "orted", "version"}) {
      const std::string subject = absl::StrCat("host ", hosts_->Address(host), "  ", what, " ");
      EXPECT_TRUE(absl::StrContains(good.out, subject)) << subject << "\n" << good.out;
    }
  }
  EXPECT_TRUE(absl::StrContains(good.out, absl::StrCat("fits ", hosts_->Address(1)))) << good.out;
  EXPECT_FALSE(absl::StrContains(good.out, "FAILED")) << good.out;

  // Somebody else is there already.
  Process other(
      hosts_->On(2, Polystrate({"serve", "--model", dir_.path(), "--kv_memory", "16777216",
                                "--listen", absl::StrCat(hosts_->Address(2), ":20001")})));
  ASSERT_TRUE(other.WaitForOutput("SERVING", kPatience)) << other.Err();
  const CommandResult taken = RunCommand(Command({"--check"}));
  EXPECT_EQ(taken.exit_code, 2) << taken.out;
  EXPECT_TRUE(absl::StrContains(taken.err, "another server has it")) << taken.err;

  WriteCluster("/bin/false");
  const CommandResult closed = RunCommand(Command({"--check"}));
  EXPECT_EQ(closed.exit_code, 2) << closed.out;
  EXPECT_TRUE(absl::StrContains(closed.err,
                                absl::StrCat("host ", hosts_->Address(1), ", ssh: /bin/false ")))
      << closed.err;
}

}  // namespace
}  // namespace polystrate
