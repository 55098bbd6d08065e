#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"
#include "launcher/cluster_check.h"
#include "launcher/cluster_file.h"
#include "launcher/cluster_plan.h"
#include "launcher/commands.h"
#include "launcher/flags.h"
#include "launcher/host_names.h"
#include "launcher/supervisor.h"

namespace polystrate {
namespace {

// In an installed folder (packaging/launch.sh) people call bin/polystrate, which finds the folder's
// libraries and Open MPI, also on other hosts.
std::string ThisProgram() {
  char path[PATH_MAX] = {};
  if (readlink("/proc/self/exe", path, sizeof(path) - 1) <= 0) return "polystrate";
  const std::filesystem::path program(path);
  std::error_code error;
  const auto installed = program.parent_path().parent_path() / "bin" / program.filename();
  const bool is_installed =
      program.parent_path().filename() == "libexec" && std::filesystem::exists(installed, error);
  return (is_installed ? installed : program).string();
}

void PrintPlan(const std::vector<ClusterTask>& tasks) {
  for (const ClusterTask& task : tasks) {
    std::printf("# %s\n%s\n", task.name.c_str(), ShellLine(task.command).c_str());
  }
}

}  // namespace

absl::Status LaunchCommand(const Arguments& arguments) {
  FlagSet set(
      "polystrate launch CLUSTER.yaml: starts its engines and their coordinator, starts again what "
      "dies,\nand forwards what they write to standard error. SIGTERM or SIGINT drains all of "
      "them; "
      "a second\nsignal ends them now. docs/cluster.md describes the file.");
  bool dry_run = false;
  bool check = false;
  set.Add("dry_run", &dry_run, "print the command lines and start nothing");
  set.Add("check", &check,
          "test hosts, ssh, versions, devices, ports, and that every engine fits; start nothing");
  const bool named = !arguments.empty() && !absl::StartsWith(arguments[0], "--");
  RETURN_IF_ERROR(set.Parse(Arguments(arguments.begin() + (named ? 1 : 0), arguments.end())));
  if (set.help_requested()) {
    std::fputs(set.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  if (!named) {
    return absl::InvalidArgumentError(
        "the cluster file is missing: polystrate launch CLUSTER.yaml [--flag ...]");
  }
  if (dry_run || check) Supervisor::UnblockSignals();  // nothing has to be ended in order
  ASSIGN_OR_RETURN(const Cluster cluster, ReadClusterFile(arguments[0]));
  LaunchSite site;
  site.program = ThisProgram();
  site.cores = std::max(1u, std::thread::hardware_concurrency());
  site.is_local = IsLocalHost;
  ASSIGN_OR_RETURN(const std::vector<ClusterTask> tasks, PlanCluster(cluster, site));
  if (dry_run) {
    PrintPlan(tasks);
    return absl::OkStatus();
  }
  std::vector<CheckResult> results = CheckHere(cluster, tasks, site);
  if (check) {
    for (CheckResult& result : CheckThere(cluster, tasks, site)) {
      results.push_back(std::move(result));
    }
    std::fputs(CheckTable(results).c_str(), stdout);
  }
  RETURN_IF_ERROR(CheckStatus(results));
  if (check) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto supervisor,
                   Supervisor::Make(tasks, {cluster.restart, cluster.log_dir}));
  return supervisor->Run();
}

}  // namespace polystrate
