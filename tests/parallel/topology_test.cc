#include "parallel/topology.h"

#include <gtest/gtest.h>

#include <set>

namespace polystrate {
namespace {

TEST(TopologyTest, RanksOfATensorParallelGroupAreAdjacent) {
  const ParallelConfig config = {/*tp_size=*/2, /*pp_size=*/3};
  EXPECT_EQ(config.world_size(), 6);
  const int tp_ranks[] = {0, 1, 0, 1, 0, 1};
  const int pp_ranks[] = {0, 0, 1, 1, 2, 2};
  for (int rank = 0; rank < 6; ++rank) {
    const Topology topology(config, rank);
    EXPECT_EQ(topology.tp_rank(), tp_ranks[rank]);
    EXPECT_EQ(topology.pp_rank(), pp_ranks[rank]);
    EXPECT_EQ(topology.first_stage(), rank < 2);
    EXPECT_EQ(topology.last_stage(), rank >= 4);
    EXPECT_EQ(topology.sampler_rank(), 4);
  }
}

TEST(TopologyTest, RankOfIsTheInverse) {
  for (int tp : {1, 2, 3, 4, 12}) {
    for (int pp : {1, 2, 5}) {
      const ParallelConfig config = {tp, pp};
      std::set<int> ranks;
      for (int rank = 0; rank < config.world_size(); ++rank) {
        const Topology topology(config, rank);
        EXPECT_EQ(topology.RankOf(topology.tp_rank(), topology.pp_rank()), rank);
        ranks.insert(topology.RankOf(topology.tp_rank(), topology.pp_rank()));
      }
      EXPECT_EQ(static_cast<int>(ranks.size()), tp * pp);
    }
  }
}

TEST(TopologyTest, OneRankIsEveryEnd) {
  const Topology topology({}, 0);
  EXPECT_TRUE(topology.first_stage());
  EXPECT_TRUE(topology.last_stage());
  EXPECT_EQ(topology.sampler_rank(), 0);
}

TEST(TopologyDeathTest, RankOutsideTheWorldIsABug) {
  EXPECT_DEATH(Topology({2, 2}, 4), "CHECK failed");
  EXPECT_DEATH(Topology({2, 2}, -1), "CHECK failed");
}

}  // namespace
}  // namespace polystrate
