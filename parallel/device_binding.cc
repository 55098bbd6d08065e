#include "parallel/device_binding.h"

#include <cstdlib>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/cuda/context.h"
#include "parallel/host.h"
#include "parallel/nccl_communicator.h"

namespace polystrate {
namespace {

constexpr char kFieldEnd = '\n';
constexpr char kPlaceEnd = '\0';

std::string ToText(const RankPlace& p) {
  return absl::StrJoin({p.host, p.host_id, absl::StrCat(p.num_gpus), absl::StrCat(p.gpu),
                        p.gpu_name, p.pci_bus_id, p.nccl_version, p.interface},
                       std::string(1, kFieldEnd));
}

RankPlace FromText(absl::string_view text) {
  const std::vector<std::string> fields = absl::StrSplit(text, kFieldEnd);
  CHECK_EQ(fields.size(), 8u);
  RankPlace place = {fields[0], fields[1], 0, 0, fields[4], fields[5], fields[6], fields[7]};
  CHECK(absl::SimpleAtoi(fields[2], &place.num_gpus));
  CHECK(absl::SimpleAtoi(fields[3], &place.gpu));
  return place;
}

// Two ranks that have one GPU, the lower first.
std::optional<std::pair<int, int>> FindShared(const std::vector<RankPlace>& places) {
  std::map<std::pair<std::string, std::string>, int> seen;
  for (size_t rank = 0; rank < places.size(); ++rank) {
    const RankPlace& place = places[rank];
    const auto [first, is_new] =
        seen.try_emplace({place.host_id, place.pci_bus_id}, static_cast<int>(rank));
    if (!is_new) return std::pair(first->second, static_cast<int>(rank));
  }
  return std::nullopt;
}

std::string DescribeShared(const std::vector<RankPlace>& places, std::pair<int, int> ranks) {
  const RankPlace& place = places[ranks.second];
  int num_local = 0;
  for (const RankPlace& other : places) num_local += other.host_id == place.host_id ? 1 : 0;
  return absl::StrCat("ranks ", ranks.first, " and ", ranks.second, " share GPU ", place.gpu, " (",
                      place.gpu_name, ", bus ", place.pci_bus_id, ") of host ", place.host,
                      ", where ", num_local, " ranks run and rank ", ranks.second, " sees ",
                      place.num_gpus, place.num_gpus == 1 ? " GPU" : " GPUs");
}

// The first rank whose NCCL is another than rank 0's.
std::optional<size_t> FindOtherNccl(const std::vector<RankPlace>& places) {
  for (size_t rank = 1; rank < places.size(); ++rank) {
    if (places[rank].nccl_version != places[0].nccl_version) return rank;
  }
  return std::nullopt;
}

// Why NCCL cannot be, and what would change that; nothing when it can.
std::optional<std::pair<std::string, std::string>> Obstacle(const std::vector<RankPlace>& places) {
  if (const auto rank = FindOtherNccl(places); rank.has_value()) {
    return std::pair(
        absl::StrCat("rank 0 has NCCL \"", places[0].nccl_version, "\", rank ", *rank, " on ",
                     places[*rank].host, " \"", places[*rank].nccl_version, "\""),
        "install the same on all hosts");
  }
  if (places[0].nccl_version.empty()) {
    return std::pair("this polystrate is built without NCCL", "build it with the preset cuda");
  }
  if (const auto ranks = FindShared(places); ranks.has_value()) {
    return std::pair(DescribeShared(places, *ranks) + "; NCCL takes one rank on each",
                     "start fewer ranks on that host, make more of its GPUs visible "
                     "(CUDA_VISIBLE_DEVICES)");
  }
  return std::nullopt;
}

}  // namespace

const char* Name(CommFlag flag) {
  switch (flag) {
    case CommFlag::kAuto:
      return "auto";
    case CommFlag::kNccl:
      return "nccl";
    case CommFlag::kMpi:
      return "mpi";
  }
  return "?";
}

absl::StatusOr<CommFlag> ParseComm(absl::string_view text) {
  for (CommFlag flag : {CommFlag::kAuto, CommFlag::kNccl, CommFlag::kMpi}) {
    if (text == Name(flag)) return flag;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--comm is \"", text, "\"; it takes auto, nccl or mpi"));
}

int ChooseGpu(std::optional<int> wanted, int local_rank, int num_gpus) {
  if (wanted.has_value()) return *wanted;
  return num_gpus > 0 ? local_rank % num_gpus : 0;
}

RankPlace ThisPlace(const Stream& stream) {
  const GpuProperties& gpu = stream.cuda().properties();
  RankPlace place;
  place.host = HostName();
  const char* host_id = std::getenv("NCCL_HOSTID");
  place.host_id = host_id != nullptr ? host_id : absl::StrCat(HostName(), " ", BootId());
  place.num_gpus = NumCudaDevices();
  place.gpu = stream.device().index;
  place.gpu_name = gpu.name;
  place.pci_bus_id = gpu.pci_bus_id;
  place.nccl_version = NcclVersion();
  place.interface = NetworkInterface();
  return place;
}

std::vector<RankPlace> AllPlaces(ControlChannel& control, const Topology& topology,
                                 const RankPlace& mine) {
  const std::string text = ToText(mine);
  const auto gathered = control.GatherBytes({text.begin(), text.end()});
  std::string all;
  if (topology.rank == 0) {
    for (const auto& bytes : gathered) {
      if (!all.empty()) all += kPlaceEnd;
      all.append(bytes.begin(), bytes.end());
    }
    control.BroadcastPlan({all.begin(), all.end()});
  } else {
    const std::vector<uint8_t> bytes = control.ReceivePlan();
    all.assign(bytes.begin(), bytes.end());
  }
  std::vector<RankPlace> places;
  for (absl::string_view one : absl::StrSplit(all, kPlaceEnd)) places.push_back(FromText(one));
  return places;
}

std::string Describe(const RankPlace& place, const Topology& topology) {
  return absl::StrCat("rank ", topology.rank, " (stage ", topology.pp_rank(), ", tp ",
                      topology.tp_rank(), ") on ", place.host, ": GPU ", place.gpu, " ",
                      place.gpu_name, ", bus ", place.pci_bus_id, ", ",
                      place.nccl_version.empty() ? "no NCCL" : "NCCL " + place.nccl_version,
                      ", interface ", place.interface);
}

absl::StatusOr<CommChoice> ChooseComm(CommFlag flag, const std::vector<RankPlace>& places) {
  if (flag == CommFlag::kMpi) return CommChoice{false, "as --comm says"};
  const auto obstacle = Obstacle(places);
  if (!obstacle.has_value()) return CommChoice{true, "every rank has a GPU of its own"};
  const auto& [why, remedy] = *obstacle;
  if (flag == CommFlag::kAuto) return CommChoice{false, why};
  return absl::InvalidArgumentError(
      absl::StrCat("--comm nccl: ", why, "; ", remedy, ", or use --comm mpi"));
}

}  // namespace polystrate
