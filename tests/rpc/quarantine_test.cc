#include "rpc/coordinator/quarantine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace polystrate {
namespace {

using Ids = std::vector<uint64_t>;

TEST(QuarantineTest, TheOnlyOneThereTwiceIsConvicted) {
  Quarantine quarantine;
  EXPECT_TRUE(quarantine.OnDeath({1, 2, 3}).empty());
  EXPECT_EQ(quarantine.OnDeath({1, 4}), Ids{1});
}

TEST(QuarantineTest, ProgressClears) {
  Quarantine quarantine;
  quarantine.OnDeath({1});
  quarantine.Clear(1);
  EXPECT_TRUE(quarantine.OnDeath({1}).empty());
}

TEST(QuarantineTest, SuspectsInCompanyAreTriedOneAtATime) {
  Quarantine quarantine;
  quarantine.OnDeath({1, 2});
  EXPECT_TRUE(quarantine.MayRun(1, "a"));  // one strike is no suspicion
  EXPECT_TRUE(quarantine.MayRun(2, "a"));
  EXPECT_TRUE(quarantine.OnDeath({1, 2}).empty());
  EXPECT_TRUE(quarantine.MayRun(1, "a"));
  EXPECT_FALSE(quarantine.MayRun(2, "a"));
  EXPECT_TRUE(quarantine.MayRun(2, "b"));  // another engine may try it
  EXPECT_EQ(quarantine.OnDeath({2, 9}), Ids{2});
  EXPECT_TRUE(quarantine.Clear(1));  // made progress: its place is free
  EXPECT_TRUE(quarantine.OnDeath({1}).empty());
}

TEST(QuarantineTest, ATrialThatIsLeftFreesThePlace) {
  Quarantine quarantine;
  quarantine.OnDeath({1, 2});
  quarantine.OnDeath({1, 2});
  EXPECT_TRUE(quarantine.MayRun(1, "a"));
  quarantine.Leave(1);
  EXPECT_TRUE(quarantine.MayRun(2, "a"));
  EXPECT_FALSE(quarantine.MayRun(1, "a"));
}

// One request that kills whatever works on it among many that do not: it is convicted after few
// deaths, and none of the others is.
TEST(QuarantineTest, TheGuiltyOneAloneIsConvicted) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    Quarantine quarantine;
    const uint64_t guilty = random() % 40;
    std::set<uint64_t> live;
    for (uint64_t id = 0; id < 40; ++id) live.insert(id);
    std::set<uint64_t> convicted;
    int deaths = 0;
    while (live.count(guilty) > 0) {
      ASSERT_LE(++deaths, 60);
      // Everyone who may goes to one of two engines, in any order.
      Ids order(live.begin(), live.end());
      std::shuffle(order.begin(), order.end(), random);
      std::map<std::string, Ids> aboard;
      for (const uint64_t id : order) {
        const std::string target = random() % 2 == 0 ? "a" : "b";
        if (quarantine.MayRun(id, target)) aboard[target].push_back(id);
      }
      for (const auto& [target, ids] : aboard) {
        if (std::count(ids.begin(), ids.end(), guilty) == 0) {
          for (const uint64_t id : ids) quarantine.Clear(id);  // they make progress
          continue;
        }
        for (const uint64_t id : quarantine.OnDeath(ids)) {
          convicted.insert(id);
          live.erase(id);
        }
      }
    }
    EXPECT_EQ(convicted, std::set<uint64_t>{guilty});
  }
}

}  // namespace
}  // namespace polystrate
