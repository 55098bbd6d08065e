// StageLayout: what each stage of an engine holds of the model, for whoever shows it. The engine
// itself works without.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/memory_plan.h"
#include "parallel/kv_sharing.h"
#include "parallel/stage_plan.h"

namespace polystrate {

struct StageLayout {
  int first_layer = 0;
  // Of each of its layers, in order, as KvSharing's: layers are numbered as the model's, not from
  // the stage's first.
  std::vector<int> kv_source;
  int64_t kv_bytes_per_token = 0;  // on the rank that holds the most

  int end_layer() const { return first_layer + static_cast<int>(kv_source.size()); }
};

// One for each stage of `plan`, which cuts a model of this sharing; `memory` is planned for it.
std::vector<StageLayout> LayOutStages(const KvSharing& sharing, const StagePlan& plan,
                                      const MemoryPlan& memory);

}  // namespace polystrate
