#include "launcher/supervisor.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "launcher/descendants.h"

namespace polystrate {
namespace {

constexpr char kMark[] = "POLYSTRATE_LAUNCH";
constexpr absl::Duration kSweepInterval = absl::Milliseconds(20);
constexpr int kSignals[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1};
// What engine and coordinator print when they serve.
constexpr char kServing[] = ": SERVING";

sigset_t Signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : kSignals) sigaddset(&signals, number);
  return signals;
}

std::string Describe(int exit_code) {
  if (exit_code > 128) return absl::StrCat("was ended by signal ", exit_code - 128);
  return absl::StrCat("ended with exit code ", exit_code);
}

std::string Rounded(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(100)));
}

}  // namespace

void Supervisor::BlockSignals() {
  const sigset_t signals = Signals();
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &signals, nullptr), 0);
}

void Supervisor::UnblockSignals() {
  const sigset_t signals = Signals();
  CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &signals, nullptr), 0);
}

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Make(std::vector<ClusterTask> tasks,
                                                             const SupervisorOptions& options) {
  std::unique_ptr<Supervisor> supervisor(new Supervisor(options));
  for (ClusterTask& task : tasks) {
    RETURN_IF_ERROR(supervisor->log_.AddWriter(task.name, options.log_dir));
    Watched& watched = supervisor->watched_.emplace_back();
    watched.task = std::move(task);
    watched.policy = std::make_unique<RestartPolicy>(options.restart);
  }
  return supervisor;
}

Supervisor::~Supervisor() {
  if (signal_fd_ >= 0) close(signal_fd_);
}

absl::Status Supervisor::Run() {
  CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  BlockSignals();
  const sigset_t signals = Signals();
  std::signal(SIGPIPE, SIG_IGN);
  signal_fd_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  CHECK_GE(signal_fd_, 0);
  for (size_t i = 0; i < watched_.size(); ++i) Start(i);
  while (AnyLeft(true) || AnyLeft(false)) {
    Poll();
    ReadSignals();
    for (size_t i = 0; i < watched_.size(); ++i) ReadOutput(i);
    Reap();
    for (size_t i = 0; i < watched_.size(); ++i) Advance(i);
    AdvanceDrain();
  }
  KillAll();
  log_.Say("no process is left");
  if (!failure_.ok()) return failure_;
  if (cut_short_) return absl::AbortedError("not all was drained: what took too long was ended");
  return absl::OkStatus();
}

void Supervisor::Start(size_t index) {
  Watched& watched = watched_[index];
  watched.mark = absl::StrCat(getpid(), ".", index, ".", ++watched.num_starts);
  watched.served.reset();
  watched.state = State::kRunning;
  auto child = ChildProcess::Start(watched.task.command, absl::StrCat(kMark, "=", watched.mark));
  if (!child.ok()) {
    log_.Say(index, std::string(child.status().message()));
    watched.exit_code = 1;
    watched.ended = absl::Now();
    watched.state = State::kSweeping;
    return;
  }
  watched.child = *std::move(child);
  watched.lines = std::make_unique<OutputLines>(
      watched.task.by_mpirun, [this, index](std::optional<int> rank, absl::string_view line) {
        OnLine(index, rank, line);
      });
  log_.Say(index, absl::StrCat("starts, pid ", watched.child.pid(), ": ",
                               ShellLine(watched.task.command)));
}

void Supervisor::OnLine(size_t index, std::optional<int> rank, absl::string_view line) {
  Watched& watched = watched_[index];
  if (!watched.served.has_value() && absl::StrContains(line, kServing))
    watched.served = absl::Now();
  log_.Write(index, rank, line);
}

// A little at a time, so that one that floods does not keep the others waiting.
void Supervisor::ReadOutput(size_t index) {
  Watched& watched = watched_[index];
  if (watched.child.output_fd() < 0) return;
  std::array<char, 65536> bytes;
  const ssize_t size = read(watched.child.output_fd(), bytes.data(), bytes.size());
  if (size > 0) watched.lines->Add(absl::string_view(bytes.data(), size));
  if (size == 0) watched.child.CloseOutput();  // nobody is left to write
}

absl::Time Supervisor::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const Watched& watched : watched_) {
    if (watched.state == State::kWaiting) next = std::min(next, watched.due);
    if (watched.state == State::kSweeping) next = std::min(next, absl::Now() + kSweepInterval);
    if (watched.state != State::kRunning) continue;
    next = std::min({next, watched.stop_at, watched.kill_at});
  }
  return next;
}

void Supervisor::Poll() {
  std::vector<pollfd> fds = {{signal_fd_, POLLIN, 0}, {log_.console().fd_to_watch(), POLLOUT, 0}};
  for (const Watched& watched : watched_) fds.push_back({watched.child.output_fd(), POLLIN, 0});
  const absl::Duration left =
      std::clamp(NextDeadline() - absl::Now(), absl::ZeroDuration(), absl::Hours(1));
  poll(fds.data(), fds.size(),
       static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)))));
  log_.console().Flush();
}

void Supervisor::ReadSignals() {
  signalfd_siginfo info = {};
  while (read(signal_fd_, &info, sizeof(info)) == sizeof(info)) {
    const int number = static_cast<int>(info.ssi_signo);
    if (number == SIGCHLD) continue;
    if (!draining_) {
      failure_ = absl::OkStatus();  // the others have served to this end
      log_.Say(absl::StrCat("signal ", number, ": draining; a second signal ends all at once"));
      Drain();
    } else if (number != SIGHUP && !stopping_) {  // which comes with another one
      log_.Say(absl::StrCat("signal ", number, ": ending all at once"));
      cut_short_ = true;
      StopAll();
    }
  }
}

void Supervisor::Reap() {
  int status = 0;
  for (pid_t pid = 0; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    for (Watched& watched : watched_) {
      if (watched.state != State::kRunning || watched.child.pid() != pid) continue;
      watched.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      watched.ended = absl::Now();
      watched.state = State::kSweeping;
    }
  }
}

void Supervisor::Advance(size_t index) {
  Watched& watched = watched_[index];
  const absl::Time now = absl::Now();
  switch (watched.state) {
    case State::kWaiting:
      if (now >= watched.due) Start(index);
      return;
    case State::kRunning:
      if (now >= watched.kill_at) {
        for (const Descendant& left : DescendantsOf(getpid())) {
          if (Owns(watched, left.pid, /*orphan=*/false)) kill(left.pid, SIGKILL);
        }
        watched.kill_at = now + options_.stop_grace;
      } else if (now >= watched.stop_at) {
        log_.Say(index, "has not drained in its time; it is ended");
        cut_short_ = true;
        Stop(&watched);
      }
      return;
    case State::kSweeping:
      return Sweep(index);
    case State::kEnded:
      return;
  }
}

bool Supervisor::Owns(const Watched& watched, pid_t pid, bool orphan) const {
  if (getsid(pid) == watched.child.pid()) return true;
  const std::optional<std::string> mark = StartedWith(pid, kMark);
  // Nothing that belongs to a process that runs hides its mark.
  return mark.has_value() ? *mark == watched.mark : orphan;
}

// What is below a process that has ended has no business any more: ranks whose mpirun was killed,
// or what cut itself loose. All that come without a parent come to this process.
void Supervisor::Sweep(size_t index) {
  Watched& watched = watched_[index];
  const auto is_child = [this](pid_t pid) {
    return std::any_of(watched_.begin(), watched_.end(), [pid](const Watched& other) {
      return other.state == State::kRunning && other.child.pid() == pid;
    });
  };
  bool found = false;
  for (const Descendant& left : DescendantsOf(getpid())) {
    const bool orphan = left.parent == getpid();
    if (is_child(left.pid) || !Owns(watched, left.pid, orphan)) continue;
    kill(left.pid, SIGKILL);
    found = true;
  }
  if (found) return;
  for (int i = 0; i < 64 && watched.child.output_fd() >= 0; ++i) ReadOutput(index);
  watched.child.CloseOutput();
  if (watched.lines != nullptr) watched.lines->End();
  OnEnded(index);
}

void Supervisor::OnEnded(size_t index) {
  Watched& watched = watched_[index];
  if (draining_) {
    log_.Say(index, Describe(watched.exit_code));
    watched.state = State::kEnded;
    return;
  }
  std::optional<absl::Duration> served;
  if (watched.served.has_value()) served = watched.ended - *watched.served;
  const std::string how =
      absl::StrCat(Describe(watched.exit_code),
                   served.has_value() ? absl::StrCat(" after it had served for ", Rounded(*served))
                                      : " before it served");
  switch (watched.policy->OnExit(watched.exit_code, served)) {
    case RestartPolicy::Verdict::kRestart:
      watched.due = absl::Now() + watched.policy->delay();
      watched.state = State::kWaiting;
      log_.Say(index, absl::StrCat(how, "; it starts again in ",
                                   absl::FormatDuration(watched.policy->delay())));
      return;
    case RestartPolicy::Verdict::kMistake:
      failure_.Update(absl::InvalidArgumentError(
          absl::StrCat(watched.task.name, " ", how,
                       ": something in what it was told is wrong; its own words "
                       "say what")));
      log_.Say(index, absl::StrCat(how,
                                   ": what it was told is wrong, as it says above; it is not "
                                   "started again"));
      break;
    case RestartPolicy::Verdict::kGiveUp:
      failure_.Update(
          absl::AbortedError(absl::StrCat(watched.task.name, " ", how, " and was given up after ",
                                          options_.restart.tries, " restarts")));
      log_.Say(index,
               absl::StrCat(how, "; it is given up after ", options_.restart.tries, " restarts"));
      break;
  }
  End(index);
}

// Engines do without one of them; nothing does without the coordinator, or without any engine.
void Supervisor::End(size_t index) {
  watched_[index].state = State::kEnded;
  if (!watched_[index].task.coordinator && AnyLeft(/*coordinator=*/false)) return;
  if (AnyLeft(true) || AnyLeft(false)) log_.Say("the rest is of no use without it: draining");
  Drain();
}

bool Supervisor::AnyLeft(bool coordinator) const {
  return std::any_of(watched_.begin(), watched_.end(), [coordinator](const Watched& watched) {
    return watched.task.coordinator == coordinator && watched.state != State::kEnded;
  });
}

void Supervisor::Drain() {
  draining_ = true;
  for (Watched& watched : watched_) {
    if (watched.state == State::kWaiting) watched.state = State::kEnded;
  }
  AdvanceDrain();
}

void Supervisor::AdvanceDrain() {
  if (!draining_ || stopping_) return;
  const bool coordinator = AnyLeft(/*coordinator=*/true);
  for (Watched& watched : watched_) {
    if (watched.state != State::kRunning || watched.task.coordinator != coordinator) continue;
    if (std::exchange(watched.drains, true)) continue;
    watched.stop_at = absl::Now() + watched.task.drain_timeout + options_.drain_grace;
    // mpirun hands SIGUSR1 to its ranks; SIGTERM would have it kill them a second later.
    kill(watched.child.pid(), watched.task.by_mpirun ? SIGUSR1 : SIGTERM);
  }
}

void Supervisor::Stop(Watched* watched) {
  if (watched->state != State::kRunning) return;
  kill(watched->child.pid(), SIGTERM);
  watched->stop_at = absl::InfiniteFuture();
  watched->kill_at = absl::Now() + options_.stop_grace;
}

void Supervisor::StopAll() {
  stopping_ = true;
  for (Watched& watched : watched_) Stop(&watched);
}

// Whatever is below this process by now, has it a mark or not.
void Supervisor::KillAll() {
  while (true) {
    const std::vector<Descendant> left = DescendantsOf(getpid());
    for (const Descendant& process : left) kill(process.pid, SIGKILL);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (left.empty()) return;
    absl::SleepFor(kSweepInterval);
  }
}

}  // namespace polystrate
