// Tensors of a GPU over a group that takes the host's alone: through page-locked memory, so that
// several ranks can share a GPU (--comm mpi), or be threads.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace polystrate {

// Host tensors go to `host` as they are. For a GPU's, the host waits until the stream has come to
// the call, and again for the peers: one piece of work on the host (Stream::OnHost), which breaks a
// graph that is being recorded. A group of one needs neither.
std::unique_ptr<Communicator> MakePinnedCommunicator(std::unique_ptr<Communicator> host);

}  // namespace polystrate
