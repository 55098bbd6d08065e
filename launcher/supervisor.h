// Supervisor: starts the processes of a cluster, starts again what dies, ends all of them in order,
// and leaves none behind.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "launcher/child_process.h"
#include "launcher/cluster_plan.h"
#include "launcher/output_lines.h"
#include "launcher/prefixed_log.h"
#include "launcher/restart_policy.h"

namespace polystrate {

struct SupervisorOptions {
  RestartOptions restart;
  std::string log_dir;
  // What a process has beyond the drain_timeout that it was given; then it is ended.
  absl::Duration drain_grace = absl::Seconds(15);
  // Between SIGTERM and SIGKILL.
  absl::Duration stop_grace = absl::Seconds(3);
};

// One thread does it all. While it runs this process is the one to which orphans below it come, so
// that what a killed mpirun leaves is found, and takes SIGTERM, SIGINT, SIGHUP and SIGUSR1 as
// "drain", a second of them as "now".
class Supervisor {
 public:
  // The signals that Run() takes stay pending until it does. To be called before the process has
  // another thread, which one of them might end, and all, or swallow.
  static void BlockSignals();
  static void UnblockSignals();

  // Of `tasks` the coordinator drains first: it has its streams finished by engines that still
  // take what it sends.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Make(std::vector<ClusterTask> tasks,
                                                          const SupervisorOptions& options);
  ~Supervisor();

  // Returns when no process is left. OK after a drain that all of them came to the end of;
  // INVALID_ARGUMENT when one was told nonsense and no engine, or no coordinator, is left to run;
  // ABORTED when what was left was given up, or did not drain in its time.
  absl::Status Run();

 private:
  enum class State { kWaiting, kRunning, kSweeping, kEnded };
  struct Watched {
    ClusterTask task;
    State state = State::kWaiting;
    absl::Time due = absl::InfinitePast();  // kWaiting: of the start
    bool drains = false;                    // was told to
    absl::Time stop_at = absl::InfiniteFuture();
    absl::Time kill_at = absl::InfiniteFuture();
    ChildProcess child;
    std::string mark;  // of this start, in the environment
    int num_starts = 0;
    int exit_code = 0;
    absl::Time ended;  // its first process; others may be left
    std::optional<absl::Time> served;
    std::unique_ptr<OutputLines> lines;
    std::unique_ptr<RestartPolicy> policy;
  };

  explicit Supervisor(const SupervisorOptions& options) : options_(options) {}
  void Start(size_t index);
  void ReadOutput(size_t index);
  void OnLine(size_t index, std::optional<int> rank, absl::string_view line);
  void Poll();
  void ReadSignals();
  void Reap();
  void Advance(size_t index);
  void Sweep(size_t index);
  void OnEnded(size_t index);
  void End(size_t index);
  void AdvanceDrain();
  void Drain();
  void StopAll();
  void Stop(Watched* watched);
  void KillAll();
  bool AnyLeft(bool coordinator) const;
  bool Owns(const Watched& watched, pid_t pid, bool orphan) const;
  absl::Time NextDeadline() const;

  const SupervisorOptions options_;
  PrefixedLog log_;
  std::vector<Watched> watched_;
  int signal_fd_ = -1;
  bool draining_ = false;
  bool stopping_ = false;
  bool cut_short_ = false;  // something was ended before it had drained
  absl::Status failure_;    // of what was given up first
};

}  // namespace polystrate
