// Real processes under a real supervisor, which is a process of its own here: what it leaves would
// be this test's orphans.
#include "launcher/supervisor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "launcher/descendants.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr int kKilled = 128 + SIGKILL;

ClusterTask Shell(const std::string& name, const std::string& script) {
  ClusterTask task;
  task.name = name;
  task.command = {"bash", "-c", script};
  task.drain_timeout = absl::Seconds(1);
  return task;
}

class SupervisorTest : public testing::Test {
 protected:
  SupervisorTest() {
    options_.restart = {absl::Milliseconds(100), absl::Milliseconds(400), absl::Seconds(60), 0};
    options_.drain_grace = absl::Milliseconds(500);
    options_.stop_grace = absl::Milliseconds(300);
    prctl(PR_SET_CHILD_SUBREAPER, 1);  // sees what a supervisor that was killed leaves
  }
  ~SupervisorTest() override {
    if (pid_ > 0) kill(pid_, SIGKILL);
    for (const Descendant& left : DescendantsOf(getpid())) kill(left.pid, SIGKILL);
    while (waitpid(-1, nullptr, 0) > 0) {
    }
  }

  void Start(
      const std::vector<ClusterTask>& tasks, const std::function<void()>& first = [] {}) {
    pid_ = fork();
    if (pid_ != 0) return;
    dup2(open(dir_.File("err").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644), STDERR_FILENO);
    first();
    const auto supervisor = Supervisor::Make(tasks, options_);
    const absl::Status status = supervisor.ok() ? (*supervisor)->Run() : supervisor.status();
    _exit(status.ok() ? 0 : absl::IsInvalidArgument(status) ? 2 : 1);
  }
  std::string Err() const { return ReadFile(dir_.File("err")); }
  int Count(const std::string& text) const {
    return static_cast<int>(std::vector<std::string>(absl::StrSplit(Err(), text)).size()) - 1;
  }
  testing::AssertionResult Waits(const std::function<bool()>& condition) const {
    for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
      if (condition()) return testing::AssertionSuccess();
      absl::SleepFor(absl::Milliseconds(5));
    }
    return testing::AssertionFailure() << Err();
  }
  testing::AssertionResult Says(const std::string& text, int times = 1) const {
    return Waits(
               [&] { return access(dir_.File("err").c_str(), F_OK) == 0 && Count(text) >= times; })
           << text;
  }
  // The exit code; -1 at the time-out.
  int Wait(absl::Duration timeout = kPatience) {
    int status = 0;
    for (const absl::Time end = absl::Now() + timeout; absl::Now() < end;) {
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      }
      absl::SleepFor(absl::Milliseconds(2));
    }
    return -1;
  }
  bool NoneLeft(absl::Duration within = kPatience) const {
    for (const absl::Time end = absl::Now() + within; absl::Now() < end;) {
      if (DescendantsOf(getpid()).empty()) return true;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return false;
  }

  TempDir dir_;
  SupervisorOptions options_;
  pid_t pid_ = -1;
};

// Drains at SIGTERM, as an engine does.
constexpr char kEngine[] =
    "trap 'echo drained; exit 0' TERM; echo 'x: SERVING'; while :; do sleep 0.02; done";

TEST_F(SupervisorTest, DrainsTheCoordinatorFirst) {
  ClusterTask coordinator = Shell("coordinator",
                                  "trap 'sleep 0.3; echo last; exit 0' TERM; echo 'x: SERVING'; "
                                  "while :; do sleep 0.02; done");
  coordinator.coordinator = true;
  Start({Shell("engine a", kEngine), Shell("engine b", kEngine), coordinator});
  ASSERT_TRUE(Says("] x: SERVING", 3));
  kill(pid_, SIGTERM);
  EXPECT_EQ(Wait(), 0) << Err();
  EXPECT_TRUE(NoneLeft(absl::Seconds(1)));
  EXPECT_EQ(Count("drained\n"), 2);
  EXPECT_LT(Err().find("] last"), Err().find("] drained")) << Err();
  EXPECT_TRUE(absl::StrContains(Err(), "[engine a] x: SERVING")) << Err();
  EXPECT_TRUE(absl::StrContains(Err(), "launch: no process is left")) << Err();
}

TEST_F(SupervisorTest, StartsAgainWithBackOff) {
  Start({Shell("engine a", "echo 'x: SERVING'; exit 75"), Shell("engine b", kEngine)});
  ASSERT_TRUE(Says("ended with exit code 75", 4));
  EXPECT_TRUE(Says("starts again in 100ms", 1));
  EXPECT_TRUE(Says("starts again in 200ms", 1));
  EXPECT_TRUE(Says("starts again in 400ms", 2));
  kill(pid_, SIGINT);
  EXPECT_EQ(Wait(), 0) << Err();
  EXPECT_TRUE(NoneLeft());
}

TEST_F(SupervisorTest, AMistakeIsNotRepeated) {
  Start({Shell("engine a", "echo no such model >&2; exit 2"), Shell("engine b", kEngine)});
  ASSERT_TRUE(Says("engine a ended with exit code 2 before it served: what it was told is wrong"));
  ASSERT_TRUE(Says("b] x: SERVING"));
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_EQ(Count("engine a starts"), 1) << Err();
  kill(pid_, SIGTERM);
  EXPECT_EQ(Wait(), 0) << Err();  // the other one has served
}

TEST_F(SupervisorTest, WithoutAnyEngineItEnds) {
  ClusterTask coordinator = Shell("coordinator", kEngine);
  coordinator.coordinator = true;
  ClusterTask missing = Shell("engine b", "");
  missing.command = {"/nonexistent/polystrate"};
  Start({Shell("engine a", "exit 2"), missing, coordinator});
  EXPECT_EQ(Wait(), 2) << Err();
  EXPECT_TRUE(NoneLeft());
  EXPECT_TRUE(absl::StrContains(Err(), "cannot run /nonexistent/polystrate: No such file"))
      << Err();
}

TEST_F(SupervisorTest, ACoordinatorThatIsWrongEndsAll) {
  ClusterTask coordinator = Shell("coordinator", "sleep 0.2; exit 2");
  coordinator.coordinator = true;
  Start({Shell("engine a", kEngine), coordinator});
  EXPECT_EQ(Wait(), 2) << Err();
  EXPECT_EQ(Count("drained\n"), 1);
  EXPECT_TRUE(NoneLeft());
}

TEST_F(SupervisorTest, GivesUpAfterTries) {
  options_.restart.tries = 2;
  Start({Shell("engine a", "exit 1")});
  EXPECT_EQ(Wait(), 1) << Err();
  EXPECT_EQ(Count("engine a starts"), 3) << Err();
  EXPECT_TRUE(absl::StrContains(Err(), "given up after 2 restarts")) << Err();
}

TEST_F(SupervisorTest, EndsWhatIgnoresIt) {
  Start({Shell("engine a", "trap '' TERM INT USR1; echo 'x: SERVING'; while :; do sleep 1; done")});
  ASSERT_TRUE(Says("] x: SERVING"));
  kill(pid_, SIGTERM);
  EXPECT_EQ(Wait(), 1) << Err();
  EXPECT_TRUE(absl::StrContains(Err(), "has not drained in its time")) << Err();
  EXPECT_TRUE(NoneLeft());
}

TEST_F(SupervisorTest, ASecondSignalMeansNow) {
  ClusterTask slow = Shell("engine a",
                           "trap 'trap \"\" TERM; sleep 100' TERM; echo 'x: SERVING'; sleep 100 & "
                           "wait; sleep 100");
  slow.drain_timeout = absl::Seconds(100);
  Start({slow});
  ASSERT_TRUE(Says("] x: SERVING"));
  kill(pid_, SIGTERM);
  ASSERT_TRUE(Says("draining"));
  const absl::Time asked = absl::Now();
  kill(pid_, SIGINT);
  EXPECT_EQ(Wait(), 1) << Err();
  EXPECT_LT(absl::Now() - asked, absl::Seconds(10));
  EXPECT_TRUE(NoneLeft());
}

// A process that detaches itself twice over, and hides that it belongs to anybody.
TEST_F(SupervisorTest, FindsWhatCutItselfLoose) {
  Start({Shell("engine a",
               "(setsid bash -c 'sleep 1000 & sleep 1000 & wait' &) ; "
               "(setsid env -i bash -c 'trap \"\" TERM HUP; sleep 1000' &) ; sleep 0.2; exit 75"),
         Shell("engine b", kEngine)});
  ASSERT_TRUE(Says("engine a starts", 4));
  // Of each start two and two processes, of which none outlives it.
  EXPECT_LE(ProcessesWith("sleep 1000").size(), 8u);
  kill(pid_, SIGTERM);
  EXPECT_EQ(Wait(), 0) << Err();
  EXPECT_TRUE(NoneLeft(absl::Seconds(1)));
}

TEST_F(SupervisorTest, KilledItLeavesNothing) {
  Start({Shell("engine a", "trap '' TERM HUP; echo 'x: SERVING'; while :; do sleep 0.05; done"),
         Shell("engine b", kEngine)});
  ASSERT_TRUE(Says("] x: SERVING", 2));
  kill(pid_, SIGKILL);
  EXPECT_EQ(Wait(), kKilled);
  EXPECT_TRUE(NoneLeft(absl::Seconds(5)));
}

TEST_F(SupervisorTest, AFloodStopsNobody) {
  options_.log_dir = dir_.path();
  ClusterTask flood = Shell("engine a",
                            "trap 'exit 0' TERM; while :; do head -c 1000000 /dev/zero; "
                            "echo; done");
  int ends[2] = {-1, -1};
  ASSERT_EQ(pipe(ends), 0);  // nobody reads
  const rlim_t kDiskBytes = 100000;
  Start({flood, Shell("engine b", "trap 'exit 0' TERM; sleep 0.5; touch " + dir_.File("lives") +
                                      "; while :; do sleep 0.02; done")},
        [&] {
          // A disk that is full soon.
          std::signal(SIGXFSZ, SIG_IGN);
          const rlimit limit = {kDiskBytes, kDiskBytes};
          setrlimit(RLIMIT_FSIZE, &limit);
          dup2(ends[1], STDERR_FILENO);
        });
  EXPECT_TRUE(Waits([&] { return access(dir_.File("lives").c_str(), F_OK) == 0; }));
  EXPECT_LE(ReadFile(dir_.File("engine-a.log")).size(), kDiskBytes);
  kill(pid_, SIGTERM);
  EXPECT_EQ(Wait(), 0);
  EXPECT_TRUE(NoneLeft());
  close(ends[0]);
  close(ends[1]);
}

TEST_F(SupervisorTest, ReadersThatLeaveStopNobody) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(pipe(ends), 0);
  Start({Shell("engine a", "trap 'exit 0' TERM; while :; do echo more; sleep 0.01; done")}, [&] {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
  });
  close(ends[0]);
  close(ends[1]);
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_EQ(Wait(absl::ZeroDuration()), -1);
  kill(pid_, SIGTERM);
  EXPECT_EQ(Wait(), 0);
}

TEST_F(SupervisorTest, AFileForEach) {
  options_.log_dir = dir_.path();
  ClusterTask ranks = Shell("engine a",
                            "echo '[1,0]<stdout>:zero'; echo '[1,1]<stderr>:one'; "
                            "echo none; exec sleep 100");
  ranks.by_mpirun = true;
  Start({ranks});
  ASSERT_TRUE(Says("[engine a] none"));
  EXPECT_TRUE(Says("[engine a rank 0] zero"));
  EXPECT_TRUE(Says("[engine a rank 1] one"));
  const std::string file = ReadFile(dir_.File("engine-a.log"));
  EXPECT_TRUE(absl::StrContains(file, "Z rank 0: zero\n")) << file;
  EXPECT_TRUE(absl::StrContains(file, "Z none\n")) << file;
  kill(pid_, SIGTERM);  // SIGUSR1 to what stands for mpirun, which dies of it
  EXPECT_EQ(Wait(), 0) << Err();
}

TEST(RestartPolicy, DoublesAndForgets) {
  RestartPolicy policy({absl::Seconds(1), absl::Seconds(5), absl::Seconds(60), 0});
  using Verdict = RestartPolicy::Verdict;
  EXPECT_EQ(policy.OnExit(1, std::nullopt), Verdict::kRestart);
  EXPECT_EQ(policy.delay(), absl::Seconds(1));
  EXPECT_EQ(policy.OnExit(137, absl::Seconds(59)), Verdict::kRestart);
  EXPECT_EQ(policy.delay(), absl::Seconds(2));
  policy.OnExit(75, absl::Seconds(1));
  policy.OnExit(75, absl::Seconds(1));
  EXPECT_EQ(policy.delay(), absl::Seconds(5));
  EXPECT_EQ(policy.OnExit(0, absl::Seconds(61)), Verdict::kRestart);
  EXPECT_EQ(policy.delay(), absl::Seconds(1));
  // What has served is told nothing wrong.
  EXPECT_EQ(policy.OnExit(2, std::nullopt), Verdict::kRestart);
  EXPECT_EQ(RestartPolicy({}).OnExit(2, std::nullopt), Verdict::kMistake);
  EXPECT_EQ(RestartPolicy({}).OnExit(127, std::nullopt), Verdict::kMistake);
}

}  // namespace
}  // namespace polystrate
