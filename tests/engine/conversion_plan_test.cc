#include "engine/conversion_plan.h"

#include <gtest/gtest.h>

namespace polystrate {
namespace {

ModelConfig Shape(int num_layers, int num_heads, int64_t hidden_size) {
  ModelConfig config;
  config.num_layers = num_layers;
  config.num_heads = num_heads;
  config.num_kv_heads = num_heads;
  config.hidden_size = hidden_size;
  config.head_dim = static_cast<int>(hidden_size) / num_heads;
  config.intermediate_size = 4 * hidden_size;
  return config;
}

int64_t Grown(const ModelConfig& config, int m, int g) {
  const KvSharing sharing = KvSharing::Mlkv(config.num_layers, m).value();
  return config.intermediate_size + MlpGrowth(config, sharing, g);
}

// The sizes in the config.json of the published checkpoints.
TEST(MlpGrowthTest, SizesOfThePublishedModels) {
  const ModelConfig pythia_160m = Shape(12, 12, 768);
  EXPECT_EQ(Grown(pythia_160m, 12, 12), 3072);
  EXPECT_EQ(Grown(pythia_160m, 12, 4), 3584);  // GQA-48
  EXPECT_EQ(Grown(pythia_160m, 4, 12), 3584);  // MLKV-48
  EXPECT_EQ(Grown(pythia_160m, 12, 1), 3777);  // MQA-12
  EXPECT_EQ(Grown(pythia_160m, 4, 3), 3777);   // MLKV-12
  EXPECT_EQ(Grown(pythia_160m, 6, 1), 3809);
  EXPECT_EQ(Grown(pythia_160m, 4, 1), 3819);
  EXPECT_EQ(Grown(pythia_160m, 2, 1), 3830);
  EXPECT_EQ(Grown(pythia_160m, 1, 1), 3835);
  EXPECT_EQ(Grown(Shape(24, 16, 1024), 8, 1), 5099);  // pythia-410m-mlkv-8
}

// 12 heads of 1 and hidden_size 12, without biases: a lost head is 24 parameters, so of 4 layers
// that lose 1, 2, ... heads each gets 6, 12, ... parameters, 0.5, 1.0, 1.5, ... rows.
TEST(MlpGrowthTest, HalvesGoToTheEvenNumber) {
  ModelConfig config = Shape(4, 12, 12);
  config.qkv_bias = false;
  config.num_kv_heads = 1;
  const auto rows = [&config](int lost) {  // before the division by the MLP's two matrices
    config.num_layers = 4;
    return MlpGrowth(config, KvSharing::Mlkv(4, 4 - lost).value(), 1);
  };
  EXPECT_EQ(rows(1), 0);  // 0.5 -> 0
  EXPECT_EQ(rows(2), 0);  // 1.0 -> 1, halved and rounded down
  EXPECT_EQ(rows(3), 1);  // 1.5 -> 2
  // A gated MLP has three matrices to grow. 48 - 7 heads lost are 20.5 rows a layer.
  config.gated_mlp = true;
  config.num_kv_heads = 12;
  EXPECT_EQ(MlpGrowth(config, KvSharing::Mlkv(4, 1).value(), 7), 6);  // 20 / 3, not 21 / 3
}

}  // namespace
}  // namespace polystrate
