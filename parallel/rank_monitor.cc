#include "parallel/rank_monitor.h"

#include <algorithm>
#include <string>

#include "kernels/core/status.h"
#include "parallel/host.h"

namespace polystrate {
namespace {

bool AllReachLoopback(const std::vector<std::vector<uint8_t>>& names) {
  return std::all_of(names.begin(), names.end(),
                     [&](const std::vector<uint8_t>& name) { return name == names.front(); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankMonitor>> RankMonitor::Start(const Topology& topology,
                                                                ControlChannel& control,
                                                                const RankActivity& activity,
                                                                RankTable* table,
                                                                const MonitorOptions& options) {
  std::unique_ptr<RankMonitor> monitor(new RankMonitor());
  const std::string name = LoopbackName();
  const auto names = control.GatherBytes({name.begin(), name.end()});
  absl::Status status = absl::OkStatus();
  if (topology.rank == 0) {
    auto hub = RankHub::Listen(AllReachLoopback(names), activity, table, options);
    status = hub.status();
    if (hub.ok()) monitor->hub_ = *std::move(hub);
  }
  RETURN_IF_ERROR(control.Agree(status));
  if (topology.rank == 0) {
    control.BroadcastPlan(monitor->hub_->address().ToBytes());
  } else {
    auto link = RankLink::Connect(MonitorAddress::FromBytes(control.ReceivePlan()), topology.rank,
                                  activity, options);
    status = link.status();
    if (link.ok()) monitor->link_ = *std::move(link);
  }
  RETURN_IF_ERROR(control.Agree(status));
  return monitor;
}

}  // namespace polystrate
