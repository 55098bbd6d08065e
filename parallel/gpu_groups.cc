#include "parallel/gpu_groups.h"

#include <utility>

#include "kernels/core/status.h"
#include "parallel/nccl_communicator.h"
#include "parallel/watched_communicator.h"

namespace polystrate {
namespace {

// A message waits for its peer on the GPU, beside the layers of the step before, and beside one the
// other way: it must leave them room.
constexpr int kMessageBlocks = 4;

absl::Status Replace(GroupName name, const NcclOptions& options, RankActivity* activity,
                     std::unique_ptr<Communicator>* group) {
  if ((*group)->size() == 1) return absl::OkStatus();
  ASSIGN_OR_RETURN(auto nccl, MakeNcclCommunicator(std::move(*group), options));
  *group = WatchCommunicator(std::move(nccl), name, activity);
  return absl::OkStatus();
}

}  // namespace

// One kind of group after the other: a rank that failed in the first would keep the peers of its
// second waiting.
absl::Status UseNccl(ControlChannel& control, absl::Duration timeout, ProcessGroups* groups) {
  RankActivity* activity = groups->activity.get();
  RETURN_IF_ERROR(control.Agree(
      Replace(GroupName::kTp, {.name = "tp", .timeout = timeout}, activity, &groups->tp)));
  RETURN_IF_ERROR(control.Agree(
      Replace(GroupName::kPp,
              {.name = "pp", .timeout = timeout, .max_blocks = kMessageBlocks, .chain = true},
              activity, &groups->pp)));
  groups->over_gpus = true;
  return absl::OkStatus();
}

}  // namespace polystrate
