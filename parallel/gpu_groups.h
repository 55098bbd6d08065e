// What becomes of a rank's groups where every rank has a GPU of its own.
#pragma once

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "parallel/control_channel.h"
#include "parallel/process_group.h"

namespace polystrate {

// From here on tensors of GPUs on `tp` and `pp` go over NCCL. Every rank calls it, with its GPU
// current, and gets the same answer: OK, or the first rank's error, after which the groups are of
// no use. `control` is of the same groups; `timeout` as in NcclOptions.
absl::Status UseNccl(ControlChannel& control, absl::Duration timeout, ProcessGroups* groups);

}  // namespace polystrate
