// RankContext: what a rank is and has; owned by the launcher (or a test) for as long as the rank's
// stage lives.
#pragma once

#include "kernels/core/device.h"
#include "parallel/process_group.h"
#include "parallel/topology.h"

namespace polystrate {

struct RankContext {
  Topology topology;
  Stream& stream;
  ProcessGroups& groups;

  bool sampler() const { return topology.rank == topology.sampler_rank(); }
};

}  // namespace polystrate
