#include "launcher/host_slots.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

struct FreeSlots {
  const ClusterHost* host;
  int64_t free;
};

// Takes up to `wanted` slots of each candidate, in units of `unit`, as long as ranks are left.
std::vector<HostRanks> Take(int64_t wanted, int64_t unit,
                            const std::vector<FreeSlots*>& candidates) {
  std::vector<HostRanks> taken;
  for (FreeSlots* candidate : candidates) {
    const int64_t ranks = std::min(wanted, candidate->free / unit * unit);
    if (ranks == 0) continue;
    candidate->free -= ranks;
    wanted -= ranks;
    taken.push_back({candidate->host->name, ranks});
  }
  return taken;
}

// Stages in equal shares over all candidates, the first ones having one more where it must be;
// nothing, and none taken, where a host has not as many slots.
std::vector<HostRanks> Spread(int64_t pp, int64_t tp, const std::vector<FreeSlots*>& candidates) {
  const auto num_hosts = static_cast<int64_t>(candidates.size());
  std::vector<HostRanks> taken;
  for (int64_t i = 0; i < num_hosts; ++i) {
    const auto stages_before = [&](int64_t host) {
      return (host * pp + num_hosts - 1) / num_hosts;
    };
    const int64_t ranks = tp * (stages_before(i + 1) - stages_before(i));
    if (ranks > candidates[i]->free) return {};
    if (ranks > 0) taken.push_back({candidates[i]->host->name, ranks});
  }
  for (FreeSlots* candidate : candidates) {
    for (const HostRanks& host : taken) {
      if (host.host == candidate->host->name) candidate->free -= host.ranks;
    }
  }
  return taken;
}

int64_t Sum(const std::vector<FreeSlots*>& candidates, int64_t unit) {
  int64_t sum = 0;
  for (const FreeSlots* candidate : candidates) sum += candidate->free / unit * unit;
  return sum;
}

absl::Status DoesNotFit(const Cluster& cluster, const ClusterEngine& engine,
                        const std::vector<FreeSlots*>& candidates) {
  const ModelFlags& model = engine.flags.engine.model;
  std::string message =
      absl::StrCat("engine ", engine.name, " does not fit: tp ", model.tp, " * pp ", model.pp,
                   " = ", engine.num_ranks(), " ranks need a slot each; free are ");
  const char* separator = "";
  for (const FreeSlots* candidate : candidates) {
    absl::StrAppend(&message, separator, candidate->free, " of the ", candidate->host->slots,
                    " of ", candidate->host->name);
    separator = ", ";
  }
  return YamlError(cluster.file, engine.at,
                   absl::StrCat(message,
                                ". `hosts: [{name: ..., slots: N}]` says how many there "
                                "are"));
}

}  // namespace

absl::StatusOr<std::vector<std::vector<HostRanks>>> AssignSlots(const Cluster& cluster) {
  std::vector<FreeSlots> hosts;
  for (const ClusterHost& host : cluster.hosts) hosts.push_back({&host, host.slots});
  std::vector<std::vector<HostRanks>> assigned;
  for (const ClusterEngine& engine : cluster.engines) {
    std::vector<FreeSlots*> candidates;
    for (const std::string& name : engine.hosts) {
      for (FreeSlots& host : hosts) {
        if (host.host->name == name) candidates.push_back(&host);
      }
    }
    if (engine.hosts.empty()) {
      for (FreeSlots& host : hosts) candidates.push_back(&host);
    }
    const int64_t wanted = engine.num_ranks();
    const int64_t tp = engine.flags.engine.model.tp;
    if (!engine.hosts.empty()) {
      std::vector<HostRanks> spread = Spread(engine.flags.engine.model.pp, tp, candidates);
      if (!spread.empty()) {
        assigned.push_back(std::move(spread));
        continue;
      }
    }
    const int64_t unit = Sum(candidates, tp) >= wanted ? tp : 1;
    if (Sum(candidates, unit) < wanted) return DoesNotFit(cluster, engine, candidates);
    assigned.push_back(Take(wanted, unit, candidates));
  }
  return assigned;
}

}  // namespace polystrate
