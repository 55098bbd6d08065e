#include "launcher/cluster_plan.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/status.h"
#include "rpc/listen_address.h"

namespace polystrate {
namespace {

constexpr char kPlainCharacters[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0;
}
bool IsAnyAddress(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

std::string Joined(const std::string& host, int port) {
  const bool v6 = host.find(':') != std::string::npos;
  return v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

class Planner {
 public:
  Planner(const Cluster& cluster, const LaunchSite& site) : cluster_(cluster), site_(site) {
    if (cluster_.program.empty()) cluster_.program = site.program;
    for (ClusterHost& host : cluster_.hosts) {
      if (host.slots == 0) host.slots = site.cores;
    }
  }

  absl::StatusOr<std::vector<ClusterTask>> Plan() {
    ASSIGN_OR_RETURN(const auto slots, AssignSlots(cluster_));
    std::vector<ClusterTask> tasks;
    Arguments addresses;
    for (size_t i = 0; i < cluster_.engines.size(); ++i) {
      const ClusterEngine& engine = cluster_.engines[i];
      tasks.push_back(EngineTask(engine, slots[i]));
      RETURN_IF_ERROR(TakePorts(tasks.back(), engine.at));
      if (!cluster_.coordinator.has_value()) continue;
      ASSIGN_OR_RETURN(const std::string address, Reach(engine, slots[i].front().host));
      addresses.push_back("--engine=" + address);
    }
    if (!cluster_.coordinator.has_value()) return tasks;
    tasks.push_back(CoordinatorTask(addresses));
    RETURN_IF_ERROR(TakePorts(tasks.back(), cluster_.coordinator->at));
    return tasks;
  }

 private:
  std::string CoordinatorHost() const {
    const std::string& host = cluster_.coordinator->host;
    return host.empty() ? cluster_.hosts.front().name : host;
  }
  bool SameHost(const std::string& a, const std::string& b) const {
    return a == b || (site_.is_local(a) && site_.is_local(b));
  }

  // Two servers on one port would be found out by the second, late.
  absl::Status TakePorts(const ClusterTask& task, const YamlNode& at) {
    const std::string& host = task.ranks.front().host;
    const std::string machine = site_.is_local(host) ? "localhost" : host;
    for (const std::string& address : task.listens) {
      const absl::StatusOr<ListenAddress> split = SplitListenAddress(address);
      if (!split.ok()) return YamlError(cluster_.file, at, std::string(split.status().message()));
      if (split->port == 0) continue;
      const auto [taken, is_new] = taken_.emplace(std::pair(machine, split->port), task.name);
      if (is_new) continue;
      return YamlError(
          cluster_.file, at,
          absl::StrCat(task.name, " listens on ", address, ", but ", taken->second, " takes port ",
                       split->port, " of ", host, " too; give each a port of its own"));
    }
    return absl::OkStatus();
  }

  // Where the coordinator finds the engine.
  absl::StatusOr<std::string> Reach(const ClusterEngine& engine, const std::string& host) const {
    ASSIGN_OR_RETURN(const ListenAddress listen, SplitListenAddress(engine.flags.listen));
    if (listen.port == 0) {
      return YamlError(cluster_.file, engine.at,
                       absl::StrCat("engine ", engine.name, " listens on port 0, any that is ",
                                    "free: the coordinator cannot know it; give one"));
    }
    if (SameHost(host, CoordinatorHost())) {
      return Joined(IsAnyAddress(listen.host) ? "127.0.0.1" : listen.host, listen.port);
    }
    if (IsLoopback(listen.host)) {
      return YamlError(cluster_.file, engine.at,
                       absl::StrCat("engine ", engine.name, " listens on ", engine.flags.listen,
                                    " of ", host, ", which the coordinator on ", CoordinatorHost(),
                                    " cannot reach; \"listen\" takes an address of ", host));
    }
    return Joined(IsAnyAddress(listen.host) ? host : listen.host, listen.port);
  }

  Arguments Mpirun(const std::vector<HostRanks>& ranks) const {
    const MpirunOptions& options = cluster_.mpirun;
    int64_t world_size = 0;
    bool crowded = false;
    for (const HostRanks& host : ranks) {
      world_size += host.ranks;
      crowded = crowded || (site_.is_local(host.host) && host.ranks > site_.cores);
    }
    Arguments line = {options.path, "-np", absl::StrCat(world_size), "--host"};
    line.push_back(absl::StrJoin(ranks, ",", [](std::string* out, const HostRanks& host) {
      absl::StrAppend(out, host.host, ":", host.ranks);
    }));
    for (const char* word : {"--map-by", "slot", "--bind-to", "none", "--tag-output"}) {
      line.push_back(word);
    }
    if (crowded) line.push_back("--oversubscribe");
    const auto set = [&line](const char* name, const std::string& value) {
      if (value.empty()) return;
      line.insert(line.end(), {"--mca", name, value});
    };
    set("plm_rsh_agent", options.ssh);
    set("oob_tcp_if_include", options.interface);
    set("btl_tcp_if_include", options.interface);
    for (const auto& [name, value] : options.env) {
      line.insert(line.end(), {"-x", absl::StrCat(name, "=", value)});
    }
    line.insert(line.end(), options.args.begin(), options.args.end());
    return line;
  }
  // One process of this machine needs no mpirun, but its environment all the same.
  Arguments Start(const std::vector<HostRanks>& ranks, bool* by_mpirun) const {
    *by_mpirun = ranks.size() > 1 || ranks[0].ranks > 1 || !site_.is_local(ranks[0].host);
    if (*by_mpirun) return Mpirun(ranks);
    Arguments line;
    if (!cluster_.mpirun.env.empty()) line.push_back("env");
    for (const auto& [name, value] : cluster_.mpirun.env) {
      line.push_back(absl::StrCat(name, "=", value));
    }
    return line;
  }

  ClusterTask EngineTask(const ClusterEngine& engine, const std::vector<HostRanks>& ranks) const {
    ClusterTask task;
    task.name = absl::StrCat("engine ", engine.name);
    task.ranks = ranks;
    task.drain_timeout = absl::Seconds(engine.flags.drain_timeout);
    task.listens = {engine.flags.listen};
    if (!engine.flags.metrics_listen.empty()) task.listens.push_back(engine.flags.metrics_listen);
    task.command = Start(ranks, &task.by_mpirun);
    task.command.insert(task.command.end(), {cluster_.program, "serve"});
    task.command.insert(task.command.end(), engine.arguments.begin(), engine.arguments.end());
    return task;
  }
  ClusterTask CoordinatorTask(const Arguments& engines) const {
    ClusterTask task;
    task.name = "coordinator";
    task.coordinator = true;
    task.ranks = {{CoordinatorHost(), 1}};
    const CoordinatorFlags& flags = cluster_.coordinator->flags;
    task.drain_timeout = absl::Seconds(flags.drain_timeout);
    task.listens = {flags.options.listen};
    if (!flags.options.http_listen.empty()) task.listens.push_back(flags.options.http_listen);
    task.command = Start(task.ranks, &task.by_mpirun);
    task.command.insert(task.command.end(), {cluster_.program, "coordinator"});
    task.command.insert(task.command.end(), engines.begin(), engines.end());
    const Arguments& own = cluster_.coordinator->arguments;
    task.command.insert(task.command.end(), own.begin(), own.end());
    return task;
  }

  Cluster cluster_;
  const LaunchSite& site_;
  std::map<std::pair<std::string, int>, std::string> taken_;  // host and port, by whom
};

}  // namespace

absl::StatusOr<std::vector<ClusterTask>> PlanCluster(const Cluster& cluster,
                                                     const LaunchSite& site) {
  return Planner(cluster, site).Plan();
}

std::string ShellLine(const Arguments& command) {
  return absl::StrJoin(command, " ", [](std::string* out, const std::string& word) {
    if (!word.empty() && word.find_first_not_of(kPlainCharacters) == std::string::npos) {
      absl::StrAppend(out, word);
      return;
    }
    absl::StrAppend(out, "'");
    for (const char c : word) absl::StrAppend(out, c == '\'' ? "'\\''" : std::string(1, c));
    absl::StrAppend(out, "'");
  });
}

}  // namespace polystrate
