// RankLink: the side of the rank monitor of every rank but 0. Reports at every beat, and notices
// when rank 0 is gone.
#pragma once

#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "parallel/monitor_options.h"
#include "parallel/monitor_wire.h"
#include "parallel/rank_activity.h"

namespace polystrate {

class RankLink {
 public:
  // UNAVAILABLE when none of the addresses leads to rank 0. `activity` must outlive the link.
  static absl::StatusOr<std::unique_ptr<RankLink>> Connect(const MonitorAddress& address, int rank,
                                                           const RankActivity& activity,
                                                           const MonitorOptions& options);
  ~RankLink();

 private:
  RankLink(FrameConnection connection, const MonitorAddress& address, const RankActivity& activity,
           const MonitorOptions& options);
  void Run();
  void Lose(const std::string& how);

  const MonitorOptions options_;
  const MonitorAddress address_;
  const RankActivity& activity_;
  FrameConnection connection_;
  Wakeup stop_;
  std::thread thread_;
};

}  // namespace polystrate
