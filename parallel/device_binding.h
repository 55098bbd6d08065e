// Which GPU each rank works on, and what may carry tensors between them. Every rank of a world
// learns every rank's place before anything is loaded, and so comes to the same answer.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/core/device.h"
#include "parallel/control_channel.h"
#include "parallel/topology.h"

namespace polystrate {

enum class CommFlag : uint8_t { kAuto, kNccl, kMpi };
const char* Name(CommFlag flag);
// INVALID_ARGUMENT says what --comm takes.
absl::StatusOr<CommFlag> ParseComm(absl::string_view text);

// GPU of the rank that is number `local_rank` on its host: the wanted one, else they take turns.
int ChooseGpu(std::optional<int> wanted, int local_rank, int num_gpus);

struct RankPlace {
  std::string host;
  // Ranks that have the same one are on one host in NCCL's eyes: NCCL_HOSTID, else the host's name
  // and boot.
  std::string host_id;
  int num_gpus = 0;  // that the rank sees
  int gpu = 0;       // of those
  std::string gpu_name;
  std::string pci_bus_id;
  std::string nccl_version;  // empty: built without
  std::string interface;     // of the network, which NCCL takes
};
// Of this process; `stream` is a GPU's.
RankPlace ThisPlace(const Stream& stream);
// Element r is rank r's. Every rank calls it.
std::vector<RankPlace> AllPlaces(ControlChannel& control, const Topology& topology,
                                 const RankPlace& mine);

// "rank 1 (stage 0, tp 1) on a: GPU 1 NVIDIA H200, bus 0000:1B:00.0, NCCL 2.28.9, interface eth0".
std::string Describe(const RankPlace& place, const Topology& topology);

struct CommChoice {
  bool nccl = false;  // else MPI, through the host's memory
  std::string why;
};
// INVALID_ARGUMENT when --comm nccl cannot be: two ranks share a GPU, this program is built without
// NCCL, or ranks have different ones; says what to change.
absl::StatusOr<CommChoice> ChooseComm(CommFlag flag, const std::vector<RankPlace>& places);

}  // namespace polystrate
