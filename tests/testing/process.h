// Real processes for end-to-end tests: bounded in time, cleaned up by pid.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace polystrate {

using CommandLine = std::vector<std::string>;

// The program under test with these arguments.
CommandLine Polystrate(const CommandLine& arguments);
// `command` on `ranks` local ranks.
CommandLine Mpirun(int ranks, const CommandLine& command);

// A child in a process group of its own, output in files. The destructor kills the group and waits.
class Process {
 public:
  explicit Process(const CommandLine& command);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int number) const;
  // The exit code (128 + signal when killed by one), or nothing when it still runs at the time-out.
  std::optional<int> Wait(absl::Duration timeout);
  std::string Out() const;
  std::string Err() const;
  // The first line on standard error that holds `text`; empty without one.
  std::string LineWith(const std::string& text) const;
  // Until standard output or error holds `text`; false at the time-out or when the process ends
  // without it.
  bool WaitForOutput(const std::string& text, absl::Duration timeout);

 private:
  pid_t pid_ = -1;
  std::string out_path_;
  std::string err_path_;
  std::string scratch_dir_;
  std::optional<int> exit_code_;
};

struct CommandResult {
  int exit_code = -1;  // -1: timed out and was killed
  std::string out;
  std::string err;
};
CommandResult RunCommand(const CommandLine& command, absl::Duration timeout = absl::Seconds(120));

// A TCP port that is free, and that no other test gets while this process lives.
int FreePort();
// Pids of live processes whose command line holds `text`, this one left out.
std::vector<pid_t> ProcessesWith(const std::string& text);
// True when no such process is left before the time-out.
bool AllGone(const std::string& text, absl::Duration timeout);

}  // namespace polystrate
