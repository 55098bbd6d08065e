// What can be known of a cluster before anything starts.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launcher/cluster_file.h"
#include "launcher/cluster_plan.h"

namespace polystrate {

struct CheckResult {
  std::string subject;  // "host node1", "engine a"
  std::string what;     // "name", "ssh", "port"
  bool ok = true;
  std::string detail;
};

// Without another process or host: names, programs and ports of this machine, and that every engine
// whose model can be read here fits it. Milliseconds; `launch` itself asks this first.
std::vector<CheckResult> CheckHere(const Cluster& cluster, const std::vector<ClusterTask>& tasks,
                                   const LaunchSite& site);

// Of every other host, over ssh: that it lets in without a password, the program's version, cores,
// GPUs, orted, that no server has the engine's port, and what `polystrate plan` says there of each
// engine that it has a rank of.
std::vector<CheckResult> CheckThere(const Cluster& cluster, const std::vector<ClusterTask>& tasks,
                                    const LaunchSite& site);

// Aligned columns, a line for each.
std::string CheckTable(const std::vector<CheckResult>& results);
// FAILED_PRECONDITION with all that failed.
absl::Status CheckStatus(const std::vector<CheckResult>& results);

}  // namespace polystrate
