// ChildProcess: a process that dies with this one, in a session of its own.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "launcher/commands.h"

namespace polystrate {

class ChildProcess {
 public:
  // `mark`, as "NAME=value", goes into its environment and so into that of all it starts. Both of
  // its outputs go to output_fd(), its input is empty, no signal is blocked or ignored, and SIGKILL
  // comes when the thread that started it ends, however it ends. A command that cannot be run says
  // so on its output and exits with 127. UNAVAILABLE when the system has no process to give.
  static absl::StatusOr<ChildProcess> Start(const Arguments& command, const std::string& mark);

  ChildProcess() = default;
  ChildProcess(ChildProcess&& other) noexcept { *this = std::move(other); }
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();  // closes the output; the process is the caller's to end

  pid_t pid() const { return pid_; }
  // Does not block; -1 once CloseOutput was called.
  int output_fd() const { return output_fd_; }
  void CloseOutput();

 private:
  pid_t pid_ = -1;
  int output_fd_ = -1;
};

}  // namespace polystrate
