#include "engine/model_cost.h"

#include <gtest/gtest.h>

namespace polystrate {
namespace {

// Pythia-160M with g KV heads in m owning layers.
ModelConfig Pythia160M(int m, int g, int64_t intermediate_size) {
  ModelConfig config;
  config.vocab_size = 50304;
  config.hidden_size = 768;
  config.num_layers = 12;
  config.num_heads = 12;
  config.num_kv_heads = g;
  config.head_dim = 64;
  config.intermediate_size = intermediate_size;
  config.sharing = KvSharing::Mlkv(12, m).value();
  return config;
}

TEST(ModelCostTest, OwnersPayTheirProjectionsAndTheirCache) {
  const ModelConfig config = Pythia160M(4, 3, 3777);
  const std::vector<LayerCost> layers = LayerCostsOf(config);
  const int64_t reuser = 2 * 768 * 768 + 2 * 3777 * 768, projections = 2 * 192 * 768;
  ASSERT_EQ(layers.size(), 12u);
  for (int l = 0; l < 12; ++l) {
    const bool owns = l % 3 == 0;
    EXPECT_EQ(layers[l].decode, owns ? reuser + projections + 2 * 192 : reuser) << l;
    EXPECT_EQ(layers[l].capacity, owns ? 3 * reuser + projections : 0) << l;
  }
  const StageCosts costs = StageCostsOf(config);
  for (int l = 0; l < 12; ++l) EXPECT_EQ(costs.layer[l], layers[l].total()) << l;
  EXPECT_EQ(costs.first_stage, 768);
  EXPECT_EQ(costs.last_stage, 2 * 768 + 50304 * 768);
}

// Of the last owner a prompt sees K and V alone, above it nothing.
TEST(ModelCostTest, PrefillEndsAtTheLastOwner) {
  const int64_t reuser = 2 * 768 * 768 + 2 * 3777 * 768, projections = 2 * 192 * 768;
  const std::vector<LayerCost> layers = LayerCostsOf(Pythia160M(4, 3, 3777));
  for (int l = 0; l < 9; ++l) {
    EXPECT_EQ(layers[l].prefill, l % 3 == 0 ? reuser + projections : reuser) << l;
  }
  EXPECT_EQ(layers[9].prefill, projections);
  EXPECT_EQ(layers[10].prefill, 0);
  EXPECT_EQ(layers[11].prefill, 0);
  EXPECT_EQ(LayerCostsOf(Pythia160M(1, 3, 3777))[0].prefill, projections);
  EXPECT_EQ(LayerCostsOf(Pythia160M(12, 3, 3777))[10].prefill, reuser + projections);
  EXPECT_EQ(LayerCostsOf(Pythia160M(12, 3, 3777))[11].prefill, projections);
}

TEST(ModelCostTest, KeyValueMlpsAreTwoMatricesEach) {
  ModelConfig config = Pythia160M(2, 1, 3072);
  config.use_key_value_mlp = true;
  config.kv_intermediate_size = 4259;
  const std::vector<LayerCost> layers = LayerCostsOf(config);
  EXPECT_EQ(layers[6].decode - layers[5].decode, 2 * (4259 * 768 + 64 * 4259) + 2 * 64);
  EXPECT_EQ(layers[6].prefill, 2 * (4259 * 768 + 64 * 4259));
}

TEST(ModelCostTest, GatedMlpsAreThreeMatrices) {
  ModelConfig config = Pythia160M(4, 3, 3777);
  const int64_t plain = LayerCostsOf(config)[1].decode;
  config.gated_mlp = true;
  EXPECT_EQ(LayerCostsOf(config)[1].decode - plain, 3777 * 768);
}

// What decode reads is every matrix once: with biases, norms and the embedding they are the
// parameters of the MLKV paper's variants. (An owner's 2 * g * head_dim cache elements are as many
// as its K and V biases.)
TEST(ModelCostTest, CostsAddUpToTheParameters) {
  struct Case {
    int m, g;
    int64_t intermediate_size, parameters;
  };
  const Case cases[] = {
      {12, 12, 3072, 162322944}, {12, 4, 3584, 162316800}, {4, 12, 3584, 162316800},
      {12, 1, 3777, 162332940},  {4, 3, 3777, 162332940},  {6, 1, 3809, 162332556},
      {4, 1, 3819, 162320132},   {2, 1, 3830, 162326152},  {1, 1, 3835, 162319940}};
  for (const Case& c : cases) {
    const ModelConfig config = Pythia160M(c.m, c.g, c.intermediate_size);
    int64_t layers = 0;
    for (const LayerCost& cost : LayerCostsOf(config)) layers += cost.decode;
    const int64_t biases = 3 * 768 + c.intermediate_size, norms = 4 * 768;
    EXPECT_EQ(layers + 12 * (biases + norms) + 50304 * 768 + StageCostsOf(config).last_stage,
              c.parameters);
  }
}

std::vector<int> Cuts(const ModelConfig& config, int pp_size) {
  const StagePlan plan = PlanStages(config.sharing, StageCostsOf(config), pp_size).value();
  std::vector<int> cuts;
  for (const Stage& stage : plan.stages) cuts.push_back(stage.first_layer);
  return cuts;
}

// By what decode reads alone this would be 9 | 3, because of the LM head: three owners against one,
// and no work for the last stage while a prompt is read.
TEST(ModelCostTest, OwnersAndPrefillAreSharedOutToo) {
  EXPECT_EQ(Cuts(Pythia160M(4, 3, 3777), 2), std::vector<int>({0, 6}));  // MLKV-12
  EXPECT_EQ(Cuts(Pythia160M(4, 1, 3819), 2), std::vector<int>({0, 6}));  // MLKV-4
  EXPECT_EQ(Cuts(Pythia160M(6, 1, 3809), 3), std::vector<int>({0, 4, 8}));
  EXPECT_EQ(Cuts(Pythia160M(6, 1, 3809), 2), std::vector<int>({0, 6}));
}

// Layer counts would cut 6 | 6. The LM head, of five layers' size here, still counts.
TEST(ModelCostTest, TheLmHeadMovesTheCut) {
  EXPECT_EQ(Cuts(Pythia160M(12, 12, 3072), 2), std::vector<int>({0, 7}));
  ModelConfig config = Pythia160M(12, 12, 3072);
  config.vocab_size = 1000;
  EXPECT_EQ(Cuts(config, 2), std::vector<int>({0, 6}));
}

}  // namespace
}  // namespace polystrate
