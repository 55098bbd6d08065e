// From a Cluster to the processes that are started for it. Pure: --dry_run prints what it says.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "launcher/cluster_file.h"
#include "launcher/commands.h"
#include "launcher/host_slots.h"

namespace polystrate {

// One process that the launcher starts and watches.
struct ClusterTask {
  std::string name;  // "engine a", "coordinator"
  Arguments command;
  std::vector<HostRanks> ranks;      // where it runs
  std::vector<std::string> listens;  // the addresses that it takes there, on the first host
  bool by_mpirun = false;
  bool coordinator = false;
  absl::Duration drain_timeout;  // that it was given
};

// What the plan must know of the machine that the launcher is on.
struct LaunchSite {
  std::string program;  // the one that runs now, absolute
  int64_t cores = 1;
  std::function<bool(const std::string& host)> is_local;
};

// A task for each engine, in the file's order, then the coordinator. INVALID_ARGUMENT for an engine
// that does not fit its hosts and for addresses that cannot work together.
absl::StatusOr<std::vector<ClusterTask>> PlanCluster(const Cluster& cluster,
                                                     const LaunchSite& site);

// For a POSIX shell.
std::string ShellLine(const Arguments& command);

}  // namespace polystrate
