#include <vector>

#include "kernels/core/copy.h"
#include "tests/kernels/kernel_cases.h"

namespace polystrate::testing {
namespace {

constexpr int64_t kRows = 37, kColumns = 5000;

class BlockTablesTest : public KernelTest {
 protected:
  void SetUp() override {
    KernelTest::SetUp();
    for (int64_t i = 0; i < kRows * kColumns; ++i) expected_.push_back(static_cast<int32_t>(-i));
  }
  int32_t& Expected(int64_t row, int64_t column) { return expected_[row * kColumns + column]; }

  std::vector<int32_t> expected_;  // [kRows, kColumns]
};

// The last ones are more than go up to a GPU at once.
TEST_P(BlockTablesTest, NewBlocksAreSetAndTheOthersStay) {
  Random random(5);
  const HostInts values(expected_);
  const Tensor tables(values.tensor().raw(), DType::kInt32, values.tensor().device(),
                      {kRows, kColumns});
  for (const int64_t columns : {0, 1, 4997}) {
    std::vector<NewBlock> blocks;
    for (int32_t row = 0; row < kRows; ++row) {
      for (int32_t index = row % 2; index < columns; index += 2) {
        blocks.push_back({row, index, static_cast<int32_t>(random.Below(1 << 20))});
        Expected(row, index) = blocks.back().block;
      }
    }
    SetBlocks(stream(), blocks, tables);
    stream().Synchronize();
    for (size_t i = 0; i < expected_.size(); ++i) {
      ASSERT_EQ(values.tensor().data<int32_t>()[i], expected_[i]) << i;
    }
  }
}

TEST_P(BlockTablesTest, RowsAreGatheredAndPaddedWithZeros) {
  const HostInts values(expected_);
  const Tensor tables(values.tensor().raw(), DType::kInt32, values.tensor().device(),
                      {kRows, kColumns});
  const std::vector<int32_t> rows = {3, 36, -1, 0, 3, -1};
  const HostInts which(rows);
  const auto n = static_cast<int64_t>(rows.size());
  for (const int64_t columns : {1, 128, 151}) {
    const HostInts gathered(std::vector<int32_t>(n * columns + 1, 77));
    GatherTables(
        stream(), which.tensor(), tables,
        Tensor(gathered.tensor().raw(), DType::kInt32, gathered.tensor().device(), {n, columns}));
    stream().Synchronize();
    const int32_t* got = gathered.tensor().data<int32_t>();
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t c = 0; c < columns; ++c) {
        ASSERT_EQ(got[i * columns + c], rows[i] < 0 ? 0 : Expected(rows[i], c)) << i << ", " << c;
      }
    }
    EXPECT_EQ(got[n * columns], 77);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, BlockTablesTest, ::testing::ValuesIn(Float32KernelCases(1)),
                         KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
