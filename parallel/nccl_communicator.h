// Communicator over NCCL: tensors of GPUs go from one to another without the host's help. In a
// build without NCCL, no_nccl.cc stands in.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "parallel/communicator.h"

namespace polystrate {

struct NcclOptions {
  std::string name;  // of the group, in messages: "tp"
  // For all ranks to join, and for NCCL to enqueue a call: a first one connects peers.
  absl::Duration timeout = absl::Seconds(60);
  int max_blocks =
      0;  // thread blocks of a call, so that others have room beside it; 0: NCCL's choice
};

// "2.28.9"; empty in a build without NCCL.
std::string NcclVersion();

// Every rank of `host` calls it, on a thread whose current GPU is the rank's own; all get an error,
// with the reason of the rank that has one, or none does. UNAVAILABLE and DEADLINE_EXCEEDED;
// UNIMPLEMENTED in a build without NCCL. Tensors of the host go to `host`, over which the group's
// id has travelled, too.
//
// All-reduce and gather run on the caller's stream and can be recorded in graphs. Messages run on a
// stream of their own and go down a chain: where ranks send each other messages in a circle, all
// wait for ever. Send copies the tensor and Recv copies it back, so that neither stream waits for
// the other while it need not; two messages may be under way, and memory for them is taken when one
// is larger than any before.
absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(
    std::unique_ptr<Communicator> host, const NcclOptions& options);

}  // namespace polystrate
