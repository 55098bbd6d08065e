// The sizes that the papers print, all of them: MLKV (arXiv:2406.09297) and CLA (arXiv:2405.12981).

#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <string>
#include <vector>

#include "engine/memory_plan.h"
#include "engine/model_config.h"
#include "engine/model_cost.h"
#include "parallel/kv_source_text.h"
#include "tests/testing/model_shape.h"

namespace polystrate {
namespace {

using Layers = std::vector<int>;

MemoryPlan PlanOneStage(const ModelConfig& config, const MemoryOptions& options) {
  const StagePlan stages = PlanStages(config.sharing, StageCostsOf(config), 1).value();
  return PlanMemory(config, stages, options).value();
}

// What the shapes say, and what one stage allocates.
int64_t BytesPerToken(const ModelConfig& config, DType dtype) {
  MemoryOptions options;
  options.dtype = dtype;
  const int64_t bytes = PlanOneStage(config, options).stages[0].kv_bytes_per_token;
  EXPECT_EQ(bytes, config.KvBytesPerToken(dtype));
  return bytes;
}

// The nine variants of the MLKV paper over Pythia-160M.
struct MlkvVariant {
  const char* name;
  int m, g;
  Layers owners;
  int64_t intermediate_size;
  int64_t num_parameters;
  int64_t bytes_per_token;     // 2-byte elements
  int64_t reduction;           // from MHA
  int64_t sequences_in_7_gib;  // of 2048 tokens
  int max_batch;               // of the paper's memory sweep
};
const Layers kAll = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
const Layers kThirds = {0, 3, 6, 9};
const MlkvVariant kMlkvVariants[] = {
    {"MHA-144", 12, 12, kAll, 3072, 162322944, 36864, 1, 99, 48},
    {"GQA-48", 12, 4, kAll, 3584, 162316800, 12288, 3, 298, 100},
    {"MLKV-48", 4, 12, kThirds, 3584, 162316800, 12288, 3, 298, 100},
    {"MQA-12", 12, 1, kAll, 3777, 162332940, 3072, 12, 1194, 380},
    {"MLKV-12", 4, 3, kThirds, 3777, 162332940, 3072, 12, 1194, 380},
    {"MLKV-6", 6, 1, {0, 2, 4, 6, 8, 10}, 3809, 162332556, 1536, 24, 2389, 620},
    {"MLKV-4", 4, 1, kThirds, 3819, 162320132, 1024, 36, 3584, 720},
    {"MLKV-2", 2, 1, {0, 6}, 3830, 162326152, 512, 72, 7168, 940},
    {"MLKV-1", 1, 1, {0}, 3835, 162319940, 256, 144, 14336, 1100}};

ModelConfig Pythia160M(const MlkvVariant& v) {
  ModelConfig config = ModelShape(12, v.g, 64, KvSharing::Mlkv(12, v.m).value());
  config.intermediate_size = v.intermediate_size;
  return config;
}

TEST(MlkvTablesTest, OwnersParametersBytesAndSequences) {
  for (const MlkvVariant& v : kMlkvVariants) {
    SCOPED_TRACE(v.name);
    const ModelConfig config = Pythia160M(v);
    EXPECT_EQ(config.sharing.owners(), v.owners);
    EXPECT_EQ(config.NumParameters(), v.num_parameters);
    EXPECT_EQ(BytesPerToken(config, DType::kBFloat16), v.bytes_per_token);
    EXPECT_EQ(v.bytes_per_token * v.reduction, 36864);
    MemoryOptions options;
    options.dtype = DType::kBFloat16;
    options.kv_memory = int64_t{7} << 30;
    const MemoryPlan memory = PlanOneStage(config, options);
    EXPECT_EQ(memory.num_blocks, options.kv_memory / (16 * v.bytes_per_token));
    EXPECT_EQ(memory.MaxSequences(2048), v.sequences_in_7_gib);
  }
}

// kv_cache_mem_MiB of the paper's 116 measurements: float32, 2000 tokens and 47 steps.
TEST(MlkvTablesTest, CacheOfEveryMeasurement) {
  const int batches[] = {8,   16,  24,  32,  40,  48,  64,  80,  100,
                         140, 220, 300, 380, 460, 620, 720, 940, 1100};
  const auto mib = [](const MlkvVariant& v, int batch, int tokens) {
    const int64_t per_token = BytesPerToken(Pythia160M(v), DType::kFloat32);
    return static_cast<double>(per_token * batch * tokens) / (1 << 20);
  };
  int rows = 0;
  for (const MlkvVariant& v : kMlkvVariants) {
    for (int batch : batches) {
      if (batch > v.max_batch) break;
      EXPECT_EQ(mib(v, batch, 2047), 0.99951171875 * v.m * v.g * batch) << v.name << " " << batch;
      ++rows;
    }
  }
  EXPECT_EQ(rows, 116);
  EXPECT_EQ(mib(kMlkvVariants[0], 8, 2047), 1151.4375);
  EXPECT_EQ(mib(kMlkvVariants[8], 1100, 2045), 1098.388671875);  // cut after 45 steps
}

struct ClaModel {
  const char* table;
  const char* name;
  int head_dim, num_heads, num_kv_heads;
  int num_layers;
  const char* kv_source;
  size_t num_owners;
  int64_t bytes_per_token;
};

void PrintTo(const ClaModel& model, std::ostream* out) { *out << model.table << model.name; }

class ClaTablesTest : public testing::TestWithParam<ClaModel> {};

TEST_P(ClaTablesTest, BytesPerToken) {
  const ClaModel& model = GetParam();
  const KvSharing sharing = ParseKvSource(model.kv_source, model.num_layers).value();
  const ModelConfig config =
      ModelShape(model.num_heads, model.num_kv_heads, model.head_dim, sharing);
  EXPECT_EQ(sharing.owners().size(), model.num_owners);
  EXPECT_EQ(BytesPerToken(config, DType::kBFloat16), model.bytes_per_token);
  EXPECT_EQ(BytesPerToken(config, DType::kFloat32), 2 * model.bytes_per_token);
}

// Adjacent groups: every owner but the first may begin a stage, and so many stages can be cut.
TEST_P(ClaTablesTest, CutsAtEveryOwnerAndNowhereElse) {
  const ClaModel& model = GetParam();
  const KvSharing sharing = ParseKvSource(model.kv_source, model.num_layers).value();
  const Layers owners = sharing.owners();
  EXPECT_EQ(sharing.legal_cuts(), Layers(owners.begin() + 1, owners.end()));
  const ModelConfig config =
      ModelShape(model.num_heads, model.num_kv_heads, model.head_dim, sharing);
  const StageCosts costs = StageCostsOf(config);
  const int most = static_cast<int>(model.num_owners);
  const StagePlan stages = PlanStages(sharing, costs, most).value();
  const MemoryPlan memory = PlanMemory(config, stages, {.dtype = DType::kBFloat16}).value();
  int64_t bytes = 0;
  for (const StageMemory& stage : memory.stages) bytes += stage.kv_bytes_per_token;
  EXPECT_EQ(bytes, model.bytes_per_token);
  if (most == model.num_layers) return;
  EXPECT_FALSE(PlanStages(sharing, costs, most + 1).ok());
}

INSTANTIATE_TEST_SUITE_P(
    Table, ClaTablesTest,
    testing::Values(
        ClaModel{"1 ", "H128-MHA", 128, 16, 16, 20, "cla1", 20, 163840},
        ClaModel{"1 ", "H128-GQA4", 128, 16, 4, 20, "cla1", 20, 40960},
        ClaModel{"1 ", "H128-GQA2", 128, 16, 2, 20, "cla1", 20, 20480},
        ClaModel{"1 ", "H128-MQA", 128, 16, 1, 20, "cla1", 20, 10240},
        ClaModel{"1 ", "H64-MQA", 64, 32, 1, 20, "cla1", 20, 5120},
        ClaModel{"1 ", "H46-MQA", 46, 45, 1, 20, "cla1", 20, 3680},
        ClaModel{"1 ", "H32-MQA", 32, 64, 1, 20, "cla1", 20, 2560},
        ClaModel{"1 ", "H512-MQA-CLA2", 512, 4, 1, 20, "cla2", 10, 20480},
        ClaModel{"1 ", "H256-MQA-CLA2", 256, 8, 1, 20, "cla2", 10, 10240},
        ClaModel{"1 ", "H128-MQA-CLA2", 128, 16, 1, 20, "cla2", 10, 5120},
        ClaModel{"1 ", "H90-MQA-CLA2", 90, 22, 1, 20, "cla2", 10, 3600},
        ClaModel{"1 ", "H64-MQA-CLA2", 64, 32, 1, 20, "cla2", 10, 2560},
        ClaModel{"1 ", "H256-GQA4-CLA2", 256, 8, 4, 20, "cla2", 10, 40960},
        ClaModel{"1 ", "H128-GQA4-CLA2", 128, 16, 4, 20, "cla2", 10, 20480},
        ClaModel{"1 ", "H128-GQA2-CLA2", 128, 16, 2, 20, "cla2", 10, 10240},
        ClaModel{"1 ", "H128-MQA-CLA3", 128, 16, 1, 20, "cla3", 7, 3584},
        ClaModel{"1 ", "H128-MQA-CLA4", 128, 16, 1, 20, "cla4", 5, 2560},
        ClaModel{"1 ", "H128-MQA-CLA2-KeepEnds", 128, 16, 1, 20, "keep_ends", 11, 5632},
        ClaModel{"1 ", "H128-MQA-CLA2-DenseFront", 128, 16, 1, 20, "dense_front", 11, 5632},
        ClaModel{"1 ", "H128-MQA-CLA2-DenseBack", 128, 16, 1, 20, "dense_back", 11, 5632},
        ClaModel{"3 ", "H128-MQA", 128, 16, 1, 20, "cla1", 20, 10240},
        ClaModel{"3 ", "H128-MQA-CLA2", 128, 16, 1, 20, "cla2", 10, 5120},
        ClaModel{"3 ", "H64-MQA", 64, 32, 1, 20, "cla1", 20, 5120},
        ClaModel{"5 ", "H128-MQA", 128, 24, 1, 32, "cla1", 32, 16384},
        ClaModel{"5 ", "H128-MQA-CLA2", 128, 24, 1, 32, "cla2", 16, 8192},
        ClaModel{"5 ", "H64-MQA", 64, 48, 1, 32, "cla1", 32, 8192},
        ClaModel{"7 ", "H64-MQA", 64, 48, 1, 32, "cla1", 32, 8192},
        ClaModel{"7 ", "H64-MQA-CLA2", 64, 48, 1, 32, "cla2", 16, 4096},
        ClaModel{"7 ", "H32-MQA", 32, 96, 1, 32, "cla1", 32, 4096}));

// The paper's architecture: gated MLPs, no biases. Its parameters without the vocabulary's, in
// millions; norms, which it does not specify, are below the tolerance.
TEST(ClaTablesTest, ParametersOfTheModels) {
  struct Case {
    int num_layers, num_heads, num_kv_heads;
    int64_t intermediate_size;
    const char* kv_source;
    double millions;
  };
  const Case cases[] = {{20, 16, 16, 5472, "cla1", 1007.9},
                        {20, 16, 1, 5472, "cla1", 850.7},
                        {20, 16, 1, 5472, "cla2", 845.4},
                        {32, 24, 1, 8192, "cla1", 3045.1},
                        {32, 24, 1, 8192, "cla2", 3032.5}};
  for (const Case& c : cases) {
    ModelConfig config = ModelShape(c.num_heads, c.num_kv_heads, 128,
                                    ParseKvSource(c.kv_source, c.num_layers).value());
    config.intermediate_size = c.intermediate_size;
    config.gated_mlp = true;
    config.qkv_bias = config.output_bias = config.mlp_bias = config.norm_bias = false;
    const int64_t vocabulary = 2 * config.vocab_size * config.hidden_size;
    EXPECT_NEAR(static_cast<double>(config.NumParameters() - vocabulary) / 1e6, c.millions, 0.25);
  }
}

// "Slightly fewer parameters": the K and V projections of the layers that reuse.
TEST(ClaTablesTest, SharingSavesTheProjectionsOfReusers) {
  ModelConfig mqa = ModelShape(16, 1, 128, KvSharing::AllOwn(20));
  mqa.qkv_bias = false;
  ModelConfig cla2 = mqa;
  cla2.sharing = KvSharing::Cla(20, 2).value();
  EXPECT_EQ(mqa.NumParameters() - cla2.NumParameters(), 10 * 2 * 2048 * 128);
}

}  // namespace
}  // namespace polystrate
