// RankMonitor: each rank tells rank 0 several times a second that it lives and what it does, and
// rank 0 tells them that it lives, from a thread of their own over TCP. So a rank that dies is
// known at once (its connection ends) and one that is frozen or cut off after a time of silence,
// whatever the main threads are stuck in.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/control_channel.h"
#include "parallel/rank_hub.h"
#include "parallel/rank_link.h"
#include "parallel/topology.h"

namespace polystrate {

class RankMonitor {
 public:
  // Every rank calls it, on its main thread, and gets the same answer. UNAVAILABLE names the rank
  // that cannot reach rank 0. `activity` is the caller's; it must outlive the monitor, as must rank
  // 0's `table`, which others may leave null.
  static absl::StatusOr<std::unique_ptr<RankMonitor>> Start(const Topology& topology,
                                                            ControlChannel& control,
                                                            const RankActivity& activity,
                                                            RankTable* table,
                                                            const MonitorOptions& options);
  // Leaves with a word: nobody will miss this rank.
  ~RankMonitor() = default;

 private:
  RankMonitor() = default;

  std::unique_ptr<RankHub> hub_;    // rank 0's
  std::unique_ptr<RankLink> link_;  // every other rank's
};

}  // namespace polystrate
