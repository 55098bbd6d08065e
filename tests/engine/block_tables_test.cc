#include "engine/block_tables.h"

#include <gtest/gtest.h>

namespace polystrate {
namespace {

using Rows = std::vector<std::vector<int32_t>>;

class BlockTablesTest : public ::testing::Test {
 protected:
  // A step of sequences whose tables are these rows.
  static StepPlan PlanOf(const std::vector<int32_t>& rows, const std::vector<NewBlock>& blocks) {
    StepPlan plan;
    plan.table_rows = rows;
    plan.context_lens.assign(rows.size(), 1);
    plan.new_blocks = blocks;
    return plan;
  }
  Rows Gather(const StepPlan& plan, int64_t num_seqs, int64_t max_blocks) {
    tables_.Take(stream_, plan);
    const Tensor gathered = tables_.Gather(stream_, plan, num_seqs, max_blocks);
    if (address_ == nullptr) address_ = gathered.raw();
    EXPECT_EQ(gathered.raw(), address_);
    EXPECT_EQ(gathered.dim(0), num_seqs);
    EXPECT_EQ(gathered.dim(1), max_blocks);
    Rows rows;
    for (int64_t i = 0; i < num_seqs; ++i) {
      const int32_t* row = gathered.data<int32_t>() + i * max_blocks;
      rows.emplace_back(row, row + max_blocks);
    }
    return rows;
  }

  Stream stream_ = Stream::Cpu(1);
  BlockTables tables_ = *BlockTables::Create(stream_, /*max_num_seqs=*/5, /*max_blocks=*/6);
  const void* address_ = nullptr;
};

TEST_F(BlockTablesTest, KnowWhatPlansHaveSaid) {
  EXPECT_EQ(Gather(PlanOf({0, 4}, {{0, 0, 10}, {4, 0, 20}, {4, 1, 21}}), 2, 2),
            (Rows{{10, 0}, {20, 21}}));
  EXPECT_EQ(Gather(PlanOf({4, 0}, {}), 2, 2), (Rows{{20, 21}, {10, 0}}));
  // The same sequences, a block more.
  EXPECT_EQ(Gather(PlanOf({4, 0}, {{0, 1, 11}}), 2, 2), (Rows{{20, 21}, {10, 11}}));
  EXPECT_EQ(Gather(PlanOf({4, 0}, {}), 2, 2), (Rows{{20, 21}, {10, 11}}));
  // A row that is another sequence's now.
  EXPECT_EQ(Gather(PlanOf({4, 0}, {{4, 0, 30}}), 2, 1), (Rows{{30}, {10}}));
}

TEST_F(BlockTablesTest, PadWithZeros) {
  const StepPlan plan = PlanOf({1, 3}, {{1, 0, 10}, {1, 1, 11}, {3, 0, 30}});
  EXPECT_EQ(Gather(plan, 4, 4), (Rows{{10, 11, 0, 0}, {30, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0, 0}}));
  // One sequence fewer in the same shape.
  EXPECT_EQ(Gather(PlanOf({1}, {}), 4, 4)[1], (std::vector<int32_t>{0, 0, 0, 0}));
  EXPECT_EQ(Gather(PlanOf({1, 3}, {}), 4, 4)[1], (std::vector<int32_t>{30, 0, 0, 0}));
  EXPECT_EQ(Gather(PlanOf({3, 1}, {}), 8, 8)[0], (std::vector<int32_t>{30, 0, 0, 0, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace polystrate
