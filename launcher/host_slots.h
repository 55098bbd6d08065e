// Which ranks of which engine are on which host.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "launcher/cluster_file.h"

namespace polystrate {

struct HostRanks {
  std::string host;
  int64_t ranks = 0;
};

// For each engine, in the cluster's order, its hosts in the order of its ranks; no slot is given
// twice. Over hosts that it names itself an engine's stages are spread evenly, if there is room;
// otherwise it takes the first hosts that have room. The ranks of a stage, which sum over all
// layers, are on one host, unless no host has as many free slots: then a stage takes what there is,
// and goes on on the next host. INVALID_ARGUMENT with the numbers for an engine that does not fit.
absl::StatusOr<std::vector<std::vector<HostRanks>>> AssignSlots(const Cluster& cluster);

}  // namespace polystrate
