#include "launcher/captured_command.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>

#include "absl/time/clock.h"
#include "launcher/child_process.h"

namespace polystrate {

CapturedCommand RunCaptured(const Arguments& command, absl::Duration timeout) {
  constexpr size_t kMost = 65536;
  CapturedCommand result;
  absl::StatusOr<ChildProcess> child = ChildProcess::Start(command, "POLYSTRATE_LAUNCH=check");
  if (!child.ok()) {
    result.output = std::string(child.status().message());
    return result;
  }
  const absl::Time deadline = absl::Now() + timeout;
  int status = 0;
  bool ended = false;
  while (!ended && absl::Now() < deadline) {
    constexpr int kWaitMs = 10;
    pollfd ready = {child->output_fd(), POLLIN, 0};
    poll(&ready, 1, kWaitMs);
    ended = waitpid(child->pid(), &status, WNOHANG) == child->pid();
    std::array<char, 4096> bytes;
    for (ssize_t size = 0; (size = read(child->output_fd(), bytes.data(), bytes.size())) > 0;) {
      result.output.append(bytes.data(), std::min<size_t>(size, kMost - result.output.size()));
    }
  }
  if (ended) {
    result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return result;
  }
  kill(-child->pid(), SIGKILL);  // the session's own group: ssh and what it started
  waitpid(child->pid(), nullptr, 0);
  return result;
}

}  // namespace polystrate
