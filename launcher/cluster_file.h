// Cluster: what cluster.yaml says, the one file that `polystrate launch` reads. docs/cluster.md, "A
// cluster", describes it for people.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "launcher/commands.h"
#include "launcher/coordinator_flags.h"
#include "launcher/serve_flags.h"
#include "launcher/yaml_node.h"

namespace polystrate {

struct ClusterHost {
  std::string name;   // as mpirun takes it: a name or an address
  int64_t slots = 0;  // 0: one for each core of this machine
};

// How ranks are started.
struct MpirunOptions {
  std::string path = "mpirun";
  std::string ssh;                                       // reaches other hosts; called as ssh is
  std::string interface;                                 // what MPI takes, as eth1 or 10.0.0.0/24
  std::vector<std::pair<std::string, std::string>> env;  // of every rank
  Arguments args;                                        // besides
};

struct ClusterEngine {
  std::string name;
  std::vector<std::string> hosts;  // to spread its stages over; empty: any
  Arguments arguments;             // of serve, those of `defaults` among them
  ServeFlags flags;                // what they say
  YamlNode at;                     // where it stands, without values

  int64_t num_ranks() const { return flags.engine.model.tp * flags.engine.model.pp; }
};

struct ClusterCoordinator {
  std::string host;     // empty: the first
  Arguments arguments;  // of coordinator; the cluster's engines are not among them
  CoordinatorFlags flags;
  YamlNode at;
};

struct RestartOptions {
  absl::Duration first = absl::Seconds(1);     // before the first restart; doubles with each
  absl::Duration most = absl::Seconds(30);     // up to this
  absl::Duration healthy = absl::Seconds(60);  // service after which all is forgotten
  int64_t tries = 0;  // restarts without such a service before it is given up; 0: for ever
};

struct Cluster {
  std::string file;
  std::string program;             // under this path on every host; empty: the one that runs now
  std::string log_dir;             // empty: none
  std::vector<ClusterHost> hosts;  // at least one: this machine, where the file names none
  MpirunOptions mpirun;
  std::vector<ClusterEngine> engines;
  std::optional<ClusterCoordinator> coordinator;
  RestartOptions restart;
};

// INVALID_ARGUMENT names file, line and column, what is wrong there and what it takes; NOT_FOUND
// when there is no such file.
absl::StatusOr<Cluster> ReadClusterFile(const std::string& path);
// The same of its text.
absl::StatusOr<Cluster> ParseCluster(const std::string& file, const std::string& text);

}  // namespace polystrate
