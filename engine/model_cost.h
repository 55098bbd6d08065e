// What each layer of a model costs the stage that holds it, so that StagePlan can balance stages.
//
// Unit: elements of weight matrices; biases and the layers' norms are small beside them. The three
// parts of LayerCost count the same, because for the usual request and engine they are of one size:
//   - A decode step reads an element once for its whole batch, and in the time of that read a
//     machine multiplies 50 (a CPU) to 200 (a large GPU) prompt tokens by it. So a prompt of some
//     hundred tokens takes about as long as decoding some hundred in a batch of a few dozen.
//   - Engines are given about as much memory for KV as for weights.
// A cut that were best for one part alone would cost another more than it gains: by decode alone,
// twelve layers in four KV groups and a large LM head fall into 9 and 3, so that the first stage
// does all the work of prefill and its three owners fill the pool when the last's is a third full.
#pragma once

#include <vector>

#include "engine/model_config.h"
#include "parallel/stage_plan.h"

namespace polystrate {

struct LayerCost {
  // What a decode step reads of matrices (query, output, the MLP's; an owner's K and V, both
  // matrices of each where they are MLPs) and, for an owner, the 2 * num_kv_heads * head_dim
  // elements it writes. Reading the cache is left out: reusers read as much as owners.
  int64_t decode = 0;
  // What a prompt's token is multiplied by: the same matrices below the last owner, of that owner
  // K's and V's alone, of layers above it none (prefill skip, engine/wanted_rows.h).
  int64_t prefill = 0;
  // An owner's share of the KV memory, all of which is taken to be the size of the layers'
  // matrices: the stage with the most owners says how many tokens the engine holds, whatever their
  // number of heads (engine/memory_plan.h).
  int64_t capacity = 0;

  int64_t total() const { return decode + prefill + capacity; }
};

// Of every layer.
std::vector<LayerCost> LayerCostsOf(const ModelConfig& config);

// layer[l]: its total. first_stage: one row of the embedding; last_stage: the final norm and the LM
// head, which only decode sees: of a prompt one row gets there.
StageCosts StageCostsOf(const ModelConfig& config);

}  // namespace polystrate
