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
  // Thread blocks of a call, so that others have room beside it; 0: NCCL's choice.
  int max_blocks = 0;
  // Messages only go from each rank to the next. What a rank receives and what it sends then go
  // over communicators of their own, so that neither waits for the other.
  bool chain = false;
};

// "2.28.9"; empty in a build without NCCL.
std::string NcclVersion();

// Every rank of `host` calls it, on a thread whose current GPU is the rank's own; all get an error,
// with the reason of the rank that has one, or none does. UNAVAILABLE and DEADLINE_EXCEEDED;
// UNIMPLEMENTED in a build without NCCL. Tensors of the host go to `host`, over which the group's
// id has travelled, too.
//
// All-reduce, broadcast and gather run on the caller's stream and can be recorded in graphs.
// Messages run on streams of their own and go down a chain: where ranks send each other messages in
// a circle, all wait for ever. Send copies the tensor and Recv copies it back, so that neither
// stream waits for the other while it need not; two messages may be under way, and memory for them
// is taken when one is larger than any before.
//
// Several communicators of a GPU at once (NCCL user guide, "Using multiple NCCL communicators
// concurrently"): a call's kernel waits on the GPU for its peers', so all that may wait at once
// must fit on it, which is what max_blocks is for, and every rank must make its calls in one order,
// from one thread. Then nothing waits in a circle: a receive waits for the ranks before it in the
// chain alone, a send for room with the next, which receives whatever it computes, and an
// all-reduce for what was enqueued before it. So does what waits for the whole GPU, as taking
// memory may.
absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(
    std::unique_ptr<Communicator> host, const NcclOptions& options);

}  // namespace polystrate
