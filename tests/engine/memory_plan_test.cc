#include "engine/memory_plan.h"

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "engine/model_cost.h"

namespace polystrate {
namespace {

ModelConfig Shape(int num_heads, int num_kv_heads, int head_dim, const KvSharing& sharing) {
  ModelConfig config;
  config.vocab_size = 50304;
  config.hidden_size = num_heads * head_dim;
  config.num_layers = sharing.num_layers();
  config.num_heads = num_heads;
  config.num_kv_heads = num_kv_heads;
  config.head_dim = head_dim;
  config.intermediate_size = 4 * config.hidden_size;
  config.sharing = sharing;
  return config;
}

// The nine variants of the MLKV paper over Pythia-160M, in the order of its table.
struct MlkvVariant {
  int m, g;
  int64_t bytes_per_token;     // 2-byte elements
  int64_t sequences_in_7_gib;  // of 2048 tokens
  int max_batch;               // of the paper's memory sweep
};
constexpr MlkvVariant kMlkvVariants[] = {
    {12, 12, 36864, 99, 48},  {12, 4, 12288, 298, 100}, {4, 12, 12288, 298, 100},
    {12, 1, 3072, 1194, 380}, {4, 3, 3072, 1194, 380},  {6, 1, 1536, 2389, 620},
    {4, 1, 1024, 3584, 720},  {2, 1, 512, 7168, 940},   {1, 1, 256, 14336, 1100}};

ModelConfig Pythia160M(int m, int g) { return Shape(12, g, 64, KvSharing::Mlkv(12, m).value()); }

absl::StatusOr<MemoryPlan> Plan(const ModelConfig& config, int pp_size,
                                const MemoryOptions& options) {
  const StagePlan stages = PlanStages(config.sharing, StageCostsOf(config), pp_size).value();
  return PlanMemory(config, stages, options);
}

int64_t BytesPerToken(const ModelConfig& config, DType dtype) {
  MemoryOptions options;
  options.dtype = dtype;
  const int64_t bytes = Plan(config, 1, options)->stages[0].kv_bytes_per_token;
  EXPECT_EQ(bytes, config.KvBytesPerToken(dtype));
  return bytes;
}

TEST(MemoryPlanTest, MlkvPaperBytesPerTokenAndSequences) {
  for (const MlkvVariant& v : kMlkvVariants) {
    SCOPED_TRACE(testing::Message() << "m " << v.m << ", g " << v.g);
    const ModelConfig config = Pythia160M(v.m, v.g);
    EXPECT_EQ(BytesPerToken(config, DType::kBFloat16), v.bytes_per_token);
    MemoryOptions options;
    options.dtype = DType::kBFloat16;
    options.kv_memory = int64_t{7} << 30;
    const MemoryPlan memory = Plan(config, 1, options).value();
    EXPECT_EQ(memory.num_blocks, options.kv_memory / (16 * v.bytes_per_token));
    EXPECT_EQ(memory.MaxSequences(2048), v.sequences_in_7_gib);
  }
}

// kv_cache_mem_MiB of the paper's 116 measurements: float32, 2000 tokens and 47 steps.
TEST(MemoryPlanTest, MlkvPaperCacheOfEveryMeasurement) {
  const int batches[] = {8,   16,  24,  32,  40,  48,  64,  80,  100,
                         140, 220, 300, 380, 460, 620, 720, 940, 1100};
  int rows = 0;
  for (const MlkvVariant& v : kMlkvVariants) {
    const int64_t per_token = BytesPerToken(Pythia160M(v.m, v.g), DType::kFloat32);
    for (int batch : batches) {
      if (batch > v.max_batch) break;
      const double mib = static_cast<double>(per_token * batch * 2047) / (1 << 20);
      EXPECT_EQ(mib, 0.99951171875 * v.m * v.g * batch);
      ++rows;
    }
  }
  EXPECT_EQ(rows, 116);
  const auto mib = [](int m, int g, int batch, int tokens) {
    const int64_t per_token = BytesPerToken(Pythia160M(m, g), DType::kFloat32);
    return static_cast<double>(per_token * batch * tokens) / (1 << 20);
  };
  EXPECT_EQ(mib(12, 12, 8, 2047), 1151.4375);
  EXPECT_EQ(mib(1, 1, 1100, 2045), 1098.388671875);  // that run was cut after 45 steps
}

struct ClaModel {
  const char* name;
  int head_dim, num_heads, num_kv_heads;
  KvSharing sharing;
  int64_t bytes_per_token;
};

void PrintTo(const ClaModel& model, std::ostream* out) { *out << model.name; }

class ClaTableTest : public testing::TestWithParam<ClaModel> {};

TEST_P(ClaTableTest, BytesPerToken) {
  const ModelConfig config =
      Shape(GetParam().num_heads, GetParam().num_kv_heads, GetParam().head_dim, GetParam().sharing);
  EXPECT_EQ(BytesPerToken(config, DType::kBFloat16), GetParam().bytes_per_token);
}

KvSharing Cla(int num_layers, int factor) { return KvSharing::Cla(num_layers, factor).value(); }
KvSharing Owners(const std::vector<int>& owners) {
  return KvSharing::FromOwners(20, owners).value();
}

// Tables 1 and 3: 20 layers.
INSTANTIATE_TEST_SUITE_P(
    OneBillion, ClaTableTest,
    testing::Values(
        ClaModel{"H128-MHA", 128, 16, 16, Cla(20, 1), 163840},
        ClaModel{"H128-GQA4", 128, 16, 4, Cla(20, 1), 40960},
        ClaModel{"H128-GQA2", 128, 16, 2, Cla(20, 1), 20480},
        ClaModel{"H128-MQA", 128, 16, 1, Cla(20, 1), 10240},
        ClaModel{"H64-MQA", 64, 32, 1, Cla(20, 1), 5120},
        ClaModel{"H46-MQA", 46, 45, 1, Cla(20, 1), 3680},
        ClaModel{"H32-MQA", 32, 64, 1, Cla(20, 1), 2560},
        ClaModel{"H512-MQA-CLA2", 512, 4, 1, Cla(20, 2), 20480},
        ClaModel{"H256-MQA-CLA2", 256, 8, 1, Cla(20, 2), 10240},
        ClaModel{"H128-MQA-CLA2", 128, 16, 1, Cla(20, 2), 5120},
        ClaModel{"H90-MQA-CLA2", 90, 22, 1, Cla(20, 2), 3600},
        ClaModel{"H64-MQA-CLA2", 64, 32, 1, Cla(20, 2), 2560},
        ClaModel{"H256-GQA4-CLA2", 256, 8, 4, Cla(20, 2), 40960},
        ClaModel{"H128-GQA4-CLA2", 128, 16, 4, Cla(20, 2), 20480},
        ClaModel{"H128-GQA2-CLA2", 128, 16, 2, Cla(20, 2), 10240},
        ClaModel{"H128-MQA-CLA3", 128, 16, 1, Cla(20, 3), 3584},
        ClaModel{"H128-MQA-CLA4", 128, 16, 1, Cla(20, 4), 2560},
        ClaModel{"KeepEnds", 128, 16, 1, Owners({0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19}), 5632},
        ClaModel{"DenseFront", 128, 16, 1, Owners({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 19}), 5632},
        ClaModel{"DenseBack", 128, 16, 1, Owners({0, 1, 11, 12, 13, 14, 15, 16, 17, 18, 19}),
                 5632}));

// Tables 5 and 7: 32 layers.
INSTANTIATE_TEST_SUITE_P(ThreeBillion, ClaTableTest,
                         testing::Values(ClaModel{"H128-MQA", 128, 24, 1, Cla(32, 1), 16384},
                                         ClaModel{"H128-MQA-CLA2", 128, 24, 1, Cla(32, 2), 8192},
                                         ClaModel{"H64-MQA", 64, 48, 1, Cla(32, 1), 8192},
                                         ClaModel{"H64-MQA-CLA2", 64, 48, 1, Cla(32, 2), 4096},
                                         ClaModel{"H32-MQA", 32, 96, 1, Cla(32, 1), 4096}));

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
  EXPECT_NE(message(options).find("takes 24576 bytes on each rank of stage 0"), std::string::npos);
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
