// What every Communicator must do, written once for groups of threads and of processes. Each rank
// of the group calls the check; it returns what went wrong on this rank, or nothing.
#pragma once

#include <string>

#include "parallel/communicator.h"
#include "parallel/control_channel.h"

namespace polystrate {

std::string CheckCommunicator(Communicator& group);
std::string CheckControlChannel(ControlChannel& control, const Topology& topology);

}  // namespace polystrate
