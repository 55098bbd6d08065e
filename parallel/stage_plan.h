// StagePlan: the pipeline's layer ranges. Computed once from one prefix-sum table; nothing else in
// the program derives a layer offset from a rank.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "parallel/kv_sharing.h"

namespace polystrate {

// Relative cost of each layer and of what only the end stages do; any one unit.
struct StageCosts {
  std::vector<double> layer;  // [num_layers]
  double first_stage = 0;     // embedding
  double last_stage = 0;      // final norm, LM head, sampling
};

struct Stage {
  int first_layer = 0;
  int end_layer = 0;  // one past the last
  double cost = 0;
  std::vector<int> owners;  // owning layers of this stage, ascending: its KV slots
};

struct StagePlan {
  std::vector<Stage> stages;  // [pp_size], in order, covering [0, num_layers)

  int pp_size() const { return static_cast<int>(stages.size()); }
};

// The legal cut into pp_size stages with the smallest largest cost (ties: the smallest sum of
// squared costs, then the earliest cuts). INVALID_ARGUMENT when there are too few legal cuts; the
// message lists them and says the largest pp_size that works.
absl::StatusOr<StagePlan> PlanStages(const KvSharing& sharing, const StageCosts& costs,
                                     int pp_size);

// The user's cut: first layers and the end, as {0, 6, 12}. INVALID_ARGUMENT when the list is not
// strictly ascending from 0 to num_layers, its length is not pp_size + 1, or a cut splits a KV
// group: the message then names the reader layer, the owner layer and both their stages, and lists
// the legal cuts.
absl::StatusOr<StagePlan> StagesFromCuts(const KvSharing& sharing, const StageCosts& costs,
                                         int pp_size, const std::vector<int>& cuts);

}  // namespace polystrate
