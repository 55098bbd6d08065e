// What stands in for NCCL in a program that is built without it. A member of a static library, it
// is only linked where nccl_communicator.cc is not.
#include "parallel/nccl_communicator.h"

namespace polystrate {

std::string NcclVersion() { return ""; }

absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(std::unique_ptr<Communicator>,
                                                                   const NcclOptions&) {
  return absl::UnimplementedError("this polystrate is built without NCCL; use --comm mpi");
}

}  // namespace polystrate
