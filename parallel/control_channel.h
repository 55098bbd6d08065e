// ControlChannel: step plans from rank 0 to every rank, step results from the sampler back to rank
// 0, and agreement on a start-up status. Bytes only; engine/ knows what they mean.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "parallel/process_group.h"
#include "parallel/topology.h"

namespace polystrate {

class ControlChannel {
 public:
  ControlChannel(const Topology& topology, ProcessGroups& groups)
      : topology_(topology),
        activity_(*groups.activity),
        control_(*groups.control),
        tokens_(*groups.tokens) {}

  // What this rank does, in all its groups.
  const RankActivity& activity() const { return activity_; }

  // Rank 0: sends to every other rank.
  void BroadcastPlan(const std::vector<uint8_t>& plan);
  // Every other rank: waits without holding a core.
  std::vector<uint8_t> ReceivePlan();
  // Every other rank: whether ReceivePlan would not have to wait.
  bool PlanHasArrived();
  // The sampler, which may be rank 0 itself.
  void SendResult(const std::vector<uint8_t>& result);
  // Rank 0: the next result, in plan order; waits without holding a core.
  std::vector<uint8_t> ReceiveResult();
  // Every rank to rank 0, once, in rank order (timelines at the end).
  std::vector<std::vector<uint8_t>> GatherBytes(const std::vector<uint8_t>& bytes);

  // Every rank calls it with its own status; all get OK, or the error of the lowest rank that has
  // one, with the rank named when the world has more than one.
  absl::Status Agree(const absl::Status& mine);

 private:
  const Topology topology_;
  const RankActivity& activity_;
  Communicator& control_;
  Communicator& tokens_;
};

}  // namespace polystrate
