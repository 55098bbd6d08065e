#include "engine/memory_plan.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/model_cost.h"
#include "tests/testing/model_shape.h"

namespace polystrate {
namespace {

// One of the nine variants of the MLKV paper.
ModelConfig Pythia160M(int m, int g) {
  return ModelShape(12, g, 64, KvSharing::Mlkv(12, m).value());
}

absl::StatusOr<MemoryPlan> Plan(const ModelConfig& config, int pp_size,
                                const MemoryOptions& options) {
  const StagePlan stages = PlanStages(config.sharing, StageCostsOf(config), pp_size).value();
  return PlanMemory(config, stages, options);
}

TEST(MemoryPlanTest, TheTightestStageDecides) {
  const ModelConfig config = Pythia160M(4, 1);
  const StagePlan stages =
      StagesFromCuts(config.sharing, StageCostsOf(config), 2, {0, 9, 12}).value();
  MemoryOptions options;
  options.block_size = 8;
  options.kv_memory = 100000;
  const MemoryPlan memory = PlanMemory(config, stages, options).value();
  ASSERT_EQ(memory.stages.size(), 2u);
  EXPECT_EQ(memory.stages[0].kv_bytes_per_token, 2 * 3 * 64 * 4);
  EXPECT_EQ(memory.stages[0].kv_bytes_per_block, 8 * 2 * 3 * 64 * 4);
  EXPECT_EQ(memory.stages[0].num_blocks, 8);
  EXPECT_EQ(memory.stages[1].kv_bytes_per_token, 2 * 1 * 64 * 4);
  EXPECT_EQ(memory.stages[1].num_blocks, 24);
  EXPECT_EQ(memory.num_blocks, 8);
  EXPECT_EQ(memory.max_tokens(), 64);
  EXPECT_EQ(memory.MaxSequences(1), 8);
  EXPECT_EQ(memory.MaxSequences(8), 8);
  EXPECT_EQ(memory.MaxSequences(9), 4);
  EXPECT_EQ(memory.MaxSequences(64), 1);
  EXPECT_EQ(memory.MaxSequences(65), 0);
}

TEST(MemoryPlanTest, CopiesCountWhereTpDoesNotDivideKvHeads) {
  struct Case {
    int g, tp_size, kv_heads_per_rank, copies;
  };
  const Case cases[] = {{3, 1, 3, 0}, {3, 2, 2, 1}, {3, 3, 1, 0},
                        {3, 4, 2, 3}, {1, 4, 1, 3}, {12, 4, 3, 0}};
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << "g " << c.g << ", tp " << c.tp_size);
    MemoryOptions options;
    options.tp_size = c.tp_size;
    const MemoryPlan memory = Plan(Pythia160M(4, c.g), 1, options).value();
    EXPECT_EQ(memory.kv_heads_per_rank, c.kv_heads_per_rank);
    EXPECT_EQ(memory.kv_head_copies, c.copies);
    EXPECT_EQ(memory.stages[0].kv_bytes_per_token, 2 * 4 * c.kv_heads_per_rank * 64 * 4);
  }
}

// slot_mapping is int32: more memory than 2^31 tokens is left unused, not wrapped around.
TEST(MemoryPlanTest, TokensStayBelowInt32) {
  MemoryOptions options;
  options.dtype = DType::kBFloat16;
  options.kv_memory = int64_t{1} << 40;
  const MemoryPlan memory = Plan(Pythia160M(1, 1), 1, options).value();
  EXPECT_EQ(memory.num_blocks, (int64_t{1} << 27) - 1);
  EXPECT_EQ(memory.stages[0].num_blocks, int64_t{1} << 28);
}

TEST(MemoryPlanTest, RefusesWhatHoldsNothing) {
  const auto message = [](const MemoryOptions& options) {
    const absl::Status status = Plan(Pythia160M(4, 1), 2, options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  MemoryOptions options;
  options.kv_memory = 10000;
  EXPECT_NE(message(options).find("takes 16384 bytes on each rank of stage 0"), std::string::npos);
  options.kv_memory = -1;
  EXPECT_NE(message(options).find("--kv_memory -1"), std::string::npos);
  options = {};
  options.block_size = 0;
  EXPECT_NE(message(options).find("--block_size is 0; expected 1 to 4096"), std::string::npos);
  options.block_size = 4097;
  EXPECT_NE(message(options).find("--block_size"), std::string::npos);
  options = {};
  options.tp_size = 5;
  EXPECT_NE(message(options).find("--tp 5"), std::string::npos);
}

}  // namespace
}  // namespace polystrate
