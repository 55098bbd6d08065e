// Communicator over MPI for host tensors (for a GPU's: pinned_communicator.h). Used by
// process_group.cc alone.
#pragma once

#include <mpi.h>

#include <memory>

#include "parallel/communicator.h"

namespace polystrate {

// Takes ownership of `comm`; MPI must outlive the result.
std::unique_ptr<Communicator> MakeMpiCommunicator(MPI_Comm comm);

}  // namespace polystrate
