#include "engine/stage_layout.h"

#include <gtest/gtest.h>

#include "engine/model_cost.h"
#include "tests/testing/model_shape.h"

namespace polystrate {
namespace {

TEST(StageLayoutTest, StagesHaveTheModelsLayersInOrder) {
  const ModelConfig config = ModelShape(12, 1, 64, KvSharing::Mlkv(12, 4).value());
  for (const std::vector<int>& cuts :
       {std::vector<int>{0, 12}, std::vector<int>{0, 9, 12}, std::vector<int>{0, 3, 6, 9, 12}}) {
    const int pp_size = static_cast<int>(cuts.size()) - 1;
    const StagePlan plan =
        StagesFromCuts(config.sharing, StageCostsOf(config), pp_size, cuts).value();
    const std::vector<StageLayout> layouts =
        LayOutStages(config.sharing, plan, PlanMemory(config, plan, {}).value());
    ASSERT_EQ(layouts.size(), plan.stages.size());
    std::vector<int> kv_source;
    int64_t kv_bytes_per_token = 0;
    for (int i = 0; i < pp_size; ++i) {
      EXPECT_EQ(layouts[i].first_layer, cuts[i]);
      EXPECT_EQ(layouts[i].end_layer(), cuts[i + 1]);
      for (const int source : layouts[i].kv_source) kv_source.push_back(source);
      kv_bytes_per_token += layouts[i].kv_bytes_per_token;
    }
    EXPECT_EQ(kv_source, config.sharing.kv_source);
    EXPECT_EQ(kv_bytes_per_token, 2 * 4 * 64 * 4) << "K and V of four owners, whatever the cut";
  }
}

}  // namespace
}  // namespace polystrate
