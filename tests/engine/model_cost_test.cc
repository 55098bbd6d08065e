#include "engine/model_cost.h"

#include <gtest/gtest.h>

#include <numeric>

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
  const StageCosts costs = StageCostsOf(Pythia160M(4, 3, 3777));
  const double reuser = 2 * 768 * 768 + 2 * 3777 * 768;
  ASSERT_EQ(costs.layer.size(), 12u);
  for (int l = 0; l < 12; ++l) {
    EXPECT_EQ(costs.layer[l], l % 3 == 0 ? reuser + 2 * 192 * 768 + 2 * 192 : reuser) << l;
  }
  EXPECT_EQ(costs.first_stage, 768);
  EXPECT_EQ(costs.last_stage, 2 * 768 + 50304 * 768);
}

TEST(ModelCostTest, KeyValueMlpsAreTwoMatricesEach) {
  ModelConfig config = Pythia160M(2, 1, 3072);
  config.use_key_value_mlp = true;
  config.kv_intermediate_size = 4259;
  const StageCosts costs = StageCostsOf(config);
  EXPECT_EQ(costs.layer[6] - costs.layer[5], 2 * (4259 * 768 + 64 * 4259) + 2 * 64);
}

// The costs hold every matrix once: with biases, norms and the embedding they are the parameters of
// the MLKV paper's variants. (An owner's 2 * g * head_dim cache elements are as many as its K and V
// biases.)
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
    const StageCosts costs = StageCostsOf(Pythia160M(c.m, c.g, c.intermediate_size));
    const double layers = std::accumulate(costs.layer.begin(), costs.layer.end(), 0.0);
    const int64_t biases = 3 * 768 + c.intermediate_size, norms = 4 * 768;
    EXPECT_EQ(layers + 12 * (biases + norms) + 50304 * 768 + costs.last_stage, c.parameters);
  }
}

// Layer counts would cut 6 | 6; the LM head is worth more than six layers of this model.
TEST(ModelCostTest, TheLmHeadMovesTheCut) {
  const ModelConfig config = Pythia160M(4, 1, 3819);
  const StagePlan plan = PlanStages(config.sharing, StageCostsOf(config), 2).value();
  EXPECT_EQ(plan.stages[0].end_layer, 9);
}

}  // namespace
}  // namespace polystrate
