#include "engine/block_allocator.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace polystrate {
namespace {

TEST(BlockAllocator, GivesEachBlockOnceAndTakesThemBack) {
  BlockAllocator blocks(5);
  std::vector<int32_t> a, b;
  ASSERT_TRUE(blocks.Allocate(3, &a));
  ASSERT_TRUE(blocks.Allocate(2, &b));
  std::set<int32_t> all(a.begin(), a.end());
  all.insert(b.begin(), b.end());
  EXPECT_EQ(all, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(blocks.num_free(), 0);
  blocks.Free(&a);
  EXPECT_TRUE(a.empty());
  EXPECT_EQ(blocks.num_free(), 3);
  blocks.CheckInvariants();
}

TEST(BlockAllocator, RefusesAllOrNothing) {
  BlockAllocator blocks(4);
  std::vector<int32_t> table;
  ASSERT_TRUE(blocks.Allocate(3, &table));
  EXPECT_FALSE(blocks.Allocate(2, &table));
  EXPECT_EQ(table.size(), 3u);
  EXPECT_EQ(blocks.num_free(), 1);
  EXPECT_TRUE(blocks.Allocate(0, &table));
  EXPECT_TRUE(BlockAllocator(0).Allocate(0, &table));
}

TEST(BlockAllocatorDeathTest, FreeingTwiceIsABug) {
  BlockAllocator blocks(2);
  std::vector<int32_t> table;
  ASSERT_TRUE(blocks.Allocate(1, &table));
  std::vector<int32_t> copy = table;
  blocks.Free(&table);
  EXPECT_DEATH(blocks.Free(&copy), "CHECK failed");
}

TEST(BlockAllocator, KeepsItsInvariantsUnderRandomUse) {
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    BlockAllocator blocks(random() % 40);
    std::vector<std::vector<int32_t>> tables(8);
    int64_t held = 0;
    for (int step = 0; step < 300; ++step) {
      std::vector<int32_t>& table = tables[random() % tables.size()];
      if (random() % 3 == 0) {
        held -= static_cast<int64_t>(table.size());
        blocks.Free(&table);
      } else {
        const int64_t count = random() % 6;
        const bool fits = count <= blocks.num_free();
        ASSERT_EQ(blocks.Allocate(count, &table), fits);
        if (fits) held += count;
      }
      blocks.CheckInvariants();
      ASSERT_EQ(blocks.num_used(), held);
    }
  }
}

}  // namespace
}  // namespace polystrate
