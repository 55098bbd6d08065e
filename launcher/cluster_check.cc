#include "launcher/cluster_check.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/core/device.h"
#include "launcher/captured_command.h"
#include "launcher/engine_setup.h"
#include "launcher/host_names.h"
#include "rpc/listen_address.h"

namespace polystrate {
namespace {

constexpr absl::Duration kRemotePatience = absl::Seconds(15);

CheckResult Result(std::string subject, std::string what, const absl::Status& status,
                   const std::string& detail = "") {
  return {std::move(subject), std::move(what), status.ok(),
          status.ok() ? detail : std::string(status.message())};
}

// Where a shell would find it; empty: nowhere.
std::string FindProgram(const std::string& name) {
  if (absl::StrContains(name, "/")) return access(name.c_str(), X_OK) == 0 ? name : "";
  const char* path = std::getenv("PATH");
  for (absl::string_view folder : absl::StrSplit(path == nullptr ? "" : path, ':')) {
    const std::string program = absl::StrCat(folder, "/", name);
    if (access(program.c_str(), X_OK) == 0) return program;
  }
  return "";
}

CheckResult CheckProgram(const std::string& subject, const std::string& name) {
  const std::string found = FindProgram(name);
  return {subject, "program", !found.empty(),
          found.empty() ? absl::StrCat("there is no program ", name, " here") : found};
}

// Open MPI would refuse, engine after engine.
CheckResult CheckRoot(const MpirunOptions& mpirun) {
  const bool allowed =
      geteuid() != 0 ||
      (std::getenv("OMPI_ALLOW_RUN_AS_ROOT") && std::getenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")) ||
      std::find(mpirun.args.begin(), mpirun.args.end(), "--allow-run-as-root") != mpirun.args.end();
  return {"mpirun", "user", allowed,
          allowed ? ""
                  : "mpirun does not run as root unless it is told: `mpirun: {args: "
                    "[--allow-run-as-root]}`, or OMPI_ALLOW_RUN_AS_ROOT=1 "
                    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 in the environment"};
}

CheckResult CheckFits(const ClusterEngine& engine, const std::string& subject) {
  absl::StatusOr<EngineSetup> setup = SetUpEngine(engine.flags.engine);
  if (setup.ok() && setup->model.device.type == DeviceType::kCuda && NumCudaDevices() == 0) {
    setup = absl::FailedPreconditionError("\"device\" is cuda, but there is no GPU here");
  }
  if (!setup.ok()) return Result(subject, "fits", setup.status());
  return {subject, "fits", true,
          absl::StrCat("tp ", setup->engine.parallel.tp_size, " x pp ",
                       setup->engine.parallel.pp_size, ", on each rank ", setup->engine.num_blocks,
                       " KV blocks of ", setup->engine.block_size, " tokens")};
}

class RemoteHost {
 public:
  RemoteHost(const Cluster& cluster, const LaunchSite& site, std::string name)
      : cluster_(cluster), name_(std::move(name)), program_(cluster.program) {
    if (program_.empty()) program_ = site.program;
    const std::string agent = cluster.mpirun.ssh.empty() ? "ssh" : cluster.mpirun.ssh;
    login_ = absl::StrSplit(agent, ' ', absl::SkipEmpty());
    // Whatever else it may be is called as mpirun calls it.
    if (std::filesystem::path(login_[0]).filename() == "ssh") {
      login_.insert(login_.end(), {"-oBatchMode=yes", "-oConnectTimeout=5"});
    }
    login_.push_back(name_);
  }

  std::string subject() const { return absl::StrCat("host ", name_); }

  CheckResult Login() const {
    const CapturedCommand result = Run("true");
    return {subject(), "ssh", result.exit_code == 0,
            result.exit_code == 0
                ? ""
                : absl::StrCat(absl::StrJoin(login_, " "), " true: ", Outcome(result))};
  }
  CheckResult Version() const {
    const CapturedCommand result = Run(ShellLine({program_, "--version"}));
    const std::string expected = absl::StrCat("polystrate ", POLYSTRATE_VERSION);
    const bool ok = result.exit_code == 0 && absl::StrContains(result.output, expected);
    return {
        subject(), "version", ok,
        ok ? expected
           : absl::StrCat(program_, " --version: ", Outcome(result), "; here it is ", expected)};
  }
  // A path in mpirun's own name lets it find its parts there too.
  CheckResult Orted() const {
    if (absl::StrContains(cluster_.mpirun.path, "/")) return {subject(), "orted", true, ""};
    const CapturedCommand result = Run("command -v orted");
    return {subject(), "orted", result.exit_code == 0,
            result.exit_code == 0
                ? LastLine(result.output)
                : "mpirun's orted is not on PATH there; `mpirun: {path: /usr/bin/mpirun}` with the "
                  "whole path lets mpirun look beside itself"};
  }
  CheckResult Devices(const ClusterTask& task, const ClusterEngine& engine) const {
    const bool cuda = absl::StartsWith(engine.flags.engine.model.device, "cuda");
    const CapturedCommand result =
        Run(cuda ? "ls -d /dev/nvidia[0-9]* 2>/dev/null | wc -l" : "nproc");
    const std::string count = LastLine(result.output);
    const bool ok = result.exit_code == 0 && !count.empty() && count != "0";
    return {task.name, absl::StrCat("devices of ", name_), ok,
            absl::StrCat(count, cuda ? " GPUs" : " cores")};
  }
  // Asked there, because the address may be one that only the host itself reaches.
  CheckResult Port(const ClusterTask& task, const std::string& address) const {
    const absl::StatusOr<ListenAddress> split = SplitListenAddress(address);
    if (!split.ok()) return Result(task.name, "port", split.status());
    const std::string connect = absl::StrCat("exec 3<>/dev/tcp/", split->host, "/", split->port);
    const bool taken = Run(ShellLine({"bash", "-c", connect})).exit_code == 0;
    return {task.name, absl::StrCat("port of ", address), !taken,
            taken ? absl::StrCat("another server has it on ", name_) : "free"};
  }
  // The model and how it is cut, by the program that will run it, where it will.
  CheckResult Fits(const ClusterTask& task, const ClusterEngine& engine) const {
    FlagSet known("");
    ModelFlags flags;
    flags.AddTo(&known);
    const std::vector<std::string> names = known.Names();
    Arguments plan = {program_, "plan", "--json"};
    for (const std::string& argument : engine.arguments) {
      const std::string name = argument.substr(2, argument.find('=') - 2);
      if (std::find(names.begin(), names.end(), name) != names.end()) plan.push_back(argument);
    }
    std::error_code error;
    const std::string folder = std::filesystem::current_path(error).string();
    const CapturedCommand result =
        Run(absl::StrCat("cd ", ShellLine({folder}), " 2>/dev/null; ", ShellLine(plan)));
    return {task.name, absl::StrCat("fits ", name_), result.exit_code == 0,
            result.exit_code == 0 ? "" : Outcome(result)};
  }

 private:
  CapturedCommand Run(const std::string& remote) const {
    Arguments command = login_;
    command.push_back(remote);
    return RunCaptured(command, kRemotePatience);
  }
  static std::string LastLine(const std::string& output) {
    const std::vector<std::string> lines = absl::StrSplit(output, '\n', absl::SkipWhitespace());
    return lines.empty() ? "" : lines.back();
  }
  static std::string Outcome(const CapturedCommand& result) {
    const std::string said = LastLine(result.output);
    if (result.exit_code == -1) {
      return absl::StrCat("no answer in ", absl::FormatDuration(kRemotePatience));
    }
    return said.empty() ? absl::StrCat("exit code ", result.exit_code) : said;
  }

  const Cluster& cluster_;
  const std::string name_;
  std::string program_;
  Arguments login_;
};

}  // namespace

std::vector<CheckResult> CheckHere(const Cluster& cluster, const std::vector<ClusterTask>& tasks,
                                   const LaunchSite& site) {
  std::vector<CheckResult> results;
  std::set<std::string> hosts;
  bool mpirun = false;
  for (const ClusterTask& task : tasks) {
    for (const HostRanks& host : task.ranks) hosts.insert(host.host);
    mpirun = mpirun || task.by_mpirun;
  }
  for (const std::string& host : hosts) {
    results.push_back(Result(absl::StrCat("host ", host), "name", CheckHostName(host),
                             site.is_local(host) ? "this machine" : ""));
  }
  if (std::any_of(hosts.begin(), hosts.end(), site.is_local)) {
    results.push_back(
        CheckProgram("polystrate", cluster.program.empty() ? site.program : cluster.program));
  }
  if (mpirun) results.push_back(CheckProgram("mpirun", cluster.mpirun.path));
  if (mpirun) results.push_back(CheckRoot(cluster.mpirun));
  for (size_t i = 0; i < tasks.size(); ++i) {
    const ClusterTask& task = tasks[i];
    if (i < cluster.engines.size() &&
        std::any_of(task.ranks.begin(), task.ranks.end(),
                    [&site](const HostRanks& host) { return site.is_local(host.host); })) {
      results.push_back(CheckFits(cluster.engines[i], task.name));
    }
    if (!site.is_local(task.ranks.front().host)) continue;
    for (const std::string& address : task.listens) {
      results.push_back(Result(task.name, absl::StrCat("port of ", address),
                               CheckListenAddress(address).status(), "free"));
    }
  }
  return results;
}

std::vector<CheckResult> CheckThere(const Cluster& cluster, const std::vector<ClusterTask>& tasks,
                                    const LaunchSite& site) {
  std::vector<CheckResult> results;
  std::map<std::string, bool> reached;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const ClusterTask& task = tasks[i];
    for (const HostRanks& host : task.ranks) {
      if (site.is_local(host.host)) continue;
      const RemoteHost remote(cluster, site, host.host);
      if (reached.count(host.host) == 0) {
        results.push_back(remote.Login());
        reached[host.host] = results.back().ok;
        if (!results.back().ok) continue;
        results.push_back(remote.Orted());
        results.push_back(remote.Version());
      }
      if (!reached[host.host]) continue;
      if (&host == &task.ranks.front()) {
        for (const std::string& address : task.listens) {
          results.push_back(remote.Port(task, address));
        }
      }
      if (task.coordinator) continue;
      results.push_back(remote.Devices(task, cluster.engines[i]));
      results.push_back(remote.Fits(task, cluster.engines[i]));
    }
  }
  return results;
}

std::string CheckTable(const std::vector<CheckResult>& results) {
  size_t subject = 0;
  size_t what = 0;
  for (const CheckResult& result : results) {
    subject = std::max(subject, result.subject.size());
    what = std::max(what, result.what.size());
  }
  std::string table;
  for (const CheckResult& result : results) {
    std::string line = absl::StrFormat("%-*s  %-*s  %-6s  %s", subject, result.subject, what,
                                       result.what, result.ok ? "ok" : "FAILED", result.detail);
    absl::StripTrailingAsciiWhitespace(&line);
    absl::StrAppend(&table, line, "\n");
  }
  return table;
}

absl::Status CheckStatus(const std::vector<CheckResult>& results) {
  std::vector<std::string> failed;
  for (const CheckResult& result : results) {
    if (result.ok) continue;
    failed.push_back(absl::StrCat(result.subject, ", ", result.what, ": ", result.detail));
  }
  if (failed.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrJoin(failed, "\n       "));
}

}  // namespace polystrate
