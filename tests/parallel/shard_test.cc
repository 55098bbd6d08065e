#include "parallel/shard.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace polystrate {
namespace {

using Heads = std::vector<int>;

std::vector<Heads> KvHeadsOfRanks(int num_heads, int num_kv_heads, int tp_size) {
  std::vector<Heads> ranks;
  for (int r = 0; r < tp_size; ++r) {
    const HeadShard shard = ShardHeads(num_heads, num_kv_heads, tp_size, r);
    Heads heads;
    for (int h = 0; h < shard.kv_count; ++h) heads.push_back(shard.kv_begin + h);
    ranks.push_back(heads);
  }
  return ranks;
}

TEST(ShardHeadsTest, EveryQueryHeadReadsItsOwnKvHead) {
  const int num_heads = 12;
  for (int num_kv_heads : {1, 2, 3, 4, 6, 12}) {
    for (int tp_size : {1, 2, 3, 4, 6, 12}) {
      SCOPED_TRACE(testing::Message() << "kv heads " << num_kv_heads << ", tp " << tp_size);
      int next_query = 0;
      for (int r = 0; r < tp_size; ++r) {
        const HeadShard shard = ShardHeads(num_heads, num_kv_heads, tp_size, r);
        EXPECT_EQ(shard.query_begin, next_query);
        EXPECT_EQ(shard.query_count, num_heads / tp_size);
        EXPECT_EQ(shard.queries_per_kv_head, num_heads / num_kv_heads);
        std::set<int> read;
        for (int q = 0; q < shard.query_count; ++q) {
          const int local = (q + shard.phase) / shard.queries_per_kv_head;
          ASSERT_LT(local, shard.kv_count);
          EXPECT_EQ(shard.kv_begin + local, (next_query + q) / (num_heads / num_kv_heads));
          read.insert(local);
        }
        // No head is held in vain.
        EXPECT_EQ(static_cast<int>(read.size()), shard.kv_count);
        if (num_kv_heads % tp_size == 0) {
          EXPECT_EQ(shard.kv_count, num_kv_heads / tp_size);
          EXPECT_EQ(shard.phase, 0);
        }
        next_query += shard.query_count;
      }
      EXPECT_EQ(next_query, num_heads);
    }
  }
}

TEST(ShardHeadsTest, RanksHoldCopiesWhereTpDoesNotDivideKvHeads) {
  EXPECT_EQ(KvHeadsOfRanks(12, 3, 3), (std::vector<Heads>{{0}, {1}, {2}}));
  EXPECT_EQ(KvHeadsOfRanks(12, 3, 2), (std::vector<Heads>{{0, 1}, {1, 2}}));
  EXPECT_EQ(KvHeadsOfRanks(12, 3, 4), (std::vector<Heads>{{0}, {0, 1}, {1, 2}, {2}}));
  EXPECT_EQ(KvHeadsOfRanks(12, 1, 2), (std::vector<Heads>{{0}, {0}}));
}

TEST(ShardHeadsTest, TpMustDivideHeads) {
  EXPECT_TRUE(CheckTpDividesHeads(12, 3).ok());
  for (int tp_size : {-1, 0, 5, 24}) {
    const absl::Status status = CheckTpDividesHeads(12, tp_size);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find("12"), std::string::npos);
  }
  EXPECT_DEATH(ShardHeads(12, 3, 5, 0), "CHECK failed");
}

TEST(SplitTest, RanksCoverTheSizeOnceAndPadAlike) {
  for (int64_t size : {1, 31, 32, 33, 768, 3777, 3809, 3819, 3835, 5099, 50304}) {
    for (int tp_size : {1, 2, 3, 4, 12}) {
      for (int64_t alignment : {1, 8, 32}) {
        SCOPED_TRACE(testing::Message() << size << " over " << tp_size << " by " << alignment);
        int64_t next = 0;
        for (int r = 0; r < tp_size; ++r) {
          const ShardRange range = Split(size, tp_size, r, alignment);
          EXPECT_EQ(range.begin, next);
          EXPECT_GE(range.count, 0);
          EXPECT_LE(range.count, range.padded);
          EXPECT_EQ(range.padded % alignment, 0);
          EXPECT_EQ(range.padded, Split(size, tp_size, 0, alignment).padded);
          next += range.count;
        }
        EXPECT_EQ(next, size);
      }
    }
  }
}

// MQA-12's odd MLP over two ranks, rows padded to 32.
TEST(SplitTest, OddIntermediateSize) {
  const ShardRange first = Split(3777, 2, 0, 32), second = Split(3777, 2, 1, 32);
  EXPECT_EQ(first.count, 1920);
  EXPECT_EQ(second.begin, 1920);
  EXPECT_EQ(second.count, 1857);
  EXPECT_EQ(second.padded, 1920);
}

}  // namespace
}  // namespace polystrate
