// What every Communicator must do, written once for groups of threads and of processes, for tensors
// of the host and of GPUs. Each rank of the group calls the check; it returns what went wrong on
// this rank, or nothing.
#pragma once

#include <string>

#include "parallel/communicator.h"
#include "parallel/control_channel.h"

namespace polystrate {

// With tensors on the stream's device.
std::string CheckCommunicator(const Stream& stream, Communicator& group);
// Its parts, for groups whose messages only go down a chain of ranks (NCCL).
std::string CheckCollectives(const Stream& stream, Communicator& group);
std::string CheckChain(const Stream& stream, Communicator& group);

// A recorded step that sums, replayed; `stream` is a GPU's.
std::string CheckRecordedAllReduce(const Stream& stream, Communicator& group);
std::string CheckControlChannel(ControlChannel& control, const Topology& topology);

}  // namespace polystrate
