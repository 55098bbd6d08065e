// Which GPU a rank takes, when NCCL can carry its tensors, and what is said when it cannot.

#include "parallel/device_binding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "parallel/process_group.h"

namespace polystrate {
namespace {

using ::testing::HasSubstr;

// Ranks on a host whose GPUs, all of which they see, they take by turns.
void AddHost(const std::string& host, int num_ranks, int num_gpus, std::vector<RankPlace>* places) {
  for (int local_rank = 0; local_rank < num_ranks; ++local_rank) {
    const int gpu = ChooseGpu(std::nullopt, local_rank, num_gpus);
    places->push_back({host, host, num_gpus, gpu, "H200", absl::StrCat("0000:0", gpu, ":00.0"),
                       "2.28.9", "eth0"});
  }
}

std::string ErrorOf(const std::vector<RankPlace>& places) {
  const auto choice = ChooseComm(CommFlag::kNccl, places);
  if (choice.ok()) return "none";
  EXPECT_EQ(choice.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(choice.status().message());
}

TEST(ChooseGpu, RanksOfAHostTakeTurns) {
  EXPECT_EQ(ChooseGpu(std::nullopt, 0, 4), 0);
  EXPECT_EQ(ChooseGpu(std::nullopt, 3, 4), 3);
  EXPECT_EQ(ChooseGpu(std::nullopt, 5, 4), 1);
}

TEST(ChooseGpu, TheWantedOneIsTaken) { EXPECT_EQ(ChooseGpu(2, 0, 4), 2); }

TEST(ChooseGpu, WithoutAnyItIsTheFirst) { EXPECT_EQ(ChooseGpu(std::nullopt, 3, 0), 0); }

TEST(ParseComm, KnowsItsThreeWords) {
  EXPECT_EQ(*ParseComm("auto"), CommFlag::kAuto);
  EXPECT_EQ(*ParseComm("nccl"), CommFlag::kNccl);
  EXPECT_EQ(*ParseComm("mpi"), CommFlag::kMpi);
  EXPECT_EQ(ParseComm("NCCL").status().message(), "--comm is \"NCCL\"; it takes auto, nccl or mpi");
}

TEST(ChooseComm, NcclWhereEveryRankHasAGpuOfItsOwn) {
  std::vector<RankPlace> places;
  AddHost("a", 4, 4, &places);
  AddHost("b", 2, 8, &places);  // the same bus ids, on another host
  for (CommFlag flag : {CommFlag::kAuto, CommFlag::kNccl}) {
    const auto choice = ChooseComm(flag, places);
    ASSERT_TRUE(choice.ok()) << choice.status();
    EXPECT_TRUE(choice->nccl);
    EXPECT_EQ(choice->why, "every rank has a GPU of its own");
  }
  EXPECT_FALSE(ChooseComm(CommFlag::kMpi, places)->nccl);
}

TEST(ChooseComm, RanksThatEachSeeAnotherGpuAsTheirFirst) {
  std::vector<RankPlace> places;
  AddHost("a", 1, 1, &places);
  AddHost("a", 1, 1, &places);
  places[1].pci_bus_id = "0000:41:00.0";  // CUDA_VISIBLE_DEVICES, one for each
  EXPECT_TRUE(ChooseComm(CommFlag::kAuto, places)->nccl);
}

TEST(ChooseComm, TwoRanksOnOneGpuGoOverMpiAndTheReasonNamesThem) {
  std::vector<RankPlace> places;
  AddHost("a", 2, 2, &places);
  AddHost("b", 3, 2, &places);
  const auto choice = ChooseComm(CommFlag::kAuto, places);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_FALSE(choice->nccl);
  EXPECT_EQ(choice->why,
            "ranks 2 and 4 share GPU 0 (H200, bus 0000:00:00.0) of host b, where 3 ranks run and "
            "rank 4 sees 2 GPUs; NCCL takes one rank on each");
}

TEST(ChooseComm, TwoRanksOnOneGpuAreAnErrorWithNccl) {
  std::vector<RankPlace> places;
  AddHost("a", 2, 1, &places);
  EXPECT_EQ(ErrorOf(places),
            "--comm nccl: ranks 0 and 1 share GPU 0 (H200, bus 0000:00:00.0) of host a, where 2 "
            "ranks run and rank 1 sees 1 GPU; NCCL takes one rank on each; start fewer ranks on "
            "that host, make more of its GPUs visible (CUDA_VISIBLE_DEVICES), or use --comm mpi");
}

TEST(ChooseComm, WhoCallsAHostTwoSharesItsGpus) {
  std::vector<RankPlace> places;
  AddHost("a", 2, 1, &places);
  places[1].host_id = "other";  // NCCL_HOSTID
  EXPECT_TRUE(ChooseComm(CommFlag::kNccl, places)->nccl);
}

TEST(ChooseComm, ABuildWithoutNcclGoesOverMpi) {
  std::vector<RankPlace> places;
  AddHost("a", 2, 2, &places);
  for (RankPlace& place : places) place.nccl_version.clear();
  EXPECT_FALSE(ChooseComm(CommFlag::kAuto, places)->nccl);
  EXPECT_THAT(ErrorOf(places), HasSubstr("built without NCCL"));
}

TEST(ChooseComm, HostsWithDifferentNcclsAreNamed) {
  std::vector<RankPlace> places;
  AddHost("a", 2, 2, &places);
  AddHost("b", 1, 2, &places);
  places[2].nccl_version = "2.27.3";
  EXPECT_FALSE(ChooseComm(CommFlag::kAuto, places)->nccl);
  EXPECT_EQ(ErrorOf(places),
            "--comm nccl: rank 0 has NCCL \"2.28.9\", rank 2 on b \"2.27.3\"; install the same on "
            "all hosts, or use --comm mpi");
}

TEST(Describe, SaysAllThatAUserMustKnow) {
  std::vector<RankPlace> places;
  AddHost("a", 2, 2, &places);
  EXPECT_EQ(Describe(places[1], Topology({1, 2}, 1)),
            "rank 1 (stage 1, tp 0) on a: GPU 1 H200, bus 0000:01:00.0, NCCL 2.28.9, "
            "interface eth0");
}

TEST(AllPlaces, EveryRankLearnsEveryPlace) {
  const ParallelConfig config{2, 2};
  std::vector<RankPlace> places;
  AddHost("a", 3, 8, &places);
  AddHost("b", 1, 8, &places);
  places[2].nccl_version.clear();
  std::vector<ProcessGroups> groups = MakeThreadGroups(config);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < config.world_size(); ++rank) {
    ranks.emplace_back([&, rank] {
      const Topology topology(config, rank);
      ControlChannel control(topology, groups[rank]);
      const std::vector<RankPlace> all = AllPlaces(control, topology, places[rank]);
      ASSERT_EQ(all.size(), places.size());
      for (int r = 0; r < config.world_size(); ++r) {
        EXPECT_EQ(Describe(all[r], Topology(config, r)), Describe(places[r], Topology(config, r)));
        EXPECT_EQ(all[r].host_id, places[r].host_id);
        EXPECT_EQ(all[r].num_gpus, places[r].num_gpus);
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

}  // namespace
}  // namespace polystrate
