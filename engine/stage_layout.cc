#include "engine/stage_layout.h"

#include "kernels/core/check.h"

namespace polystrate {

std::vector<StageLayout> LayOutStages(const KvSharing& sharing, const StagePlan& plan,
                                      const MemoryPlan& memory) {
  CHECK_EQ(plan.stages.size(), memory.stages.size());
  std::vector<StageLayout> layouts;
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    const Stage& stage = plan.stages[i];
    layouts.push_back({stage.first_layer,
                       {sharing.kv_source.begin() + stage.first_layer,
                        sharing.kv_source.begin() + stage.end_layer},
                       memory.stages[i].kv_bytes_per_token});
  }
  return layouts;
}

}  // namespace polystrate
