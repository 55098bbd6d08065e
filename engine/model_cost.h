// What each layer of a model costs the stage that holds it, so that StagePlan can balance stages.
//
// Unit: elements moved to decode one token. That is the weight elements a layer's matrices read
// (they set the time of a decode step, and the memory a layer takes) and, for an owner, the K and V
// elements it writes and keeps. Reading the cache is left out: each layer reads as much whether it
// owns or not, so it moves no cut. So are biases and the layers' norms, which are small beside the
// matrices.
#pragma once

#include "engine/model_config.h"
#include "parallel/stage_plan.h"

namespace polystrate {

// layer[l]: query, output, up, down; an owner adds its K and V projections (both matrices of
// each where they are MLPs) and 2 * num_kv_heads * head_dim cache elements. first_stage: one row of
// the embedding; last_stage: the final norm and the LM head.
StageCosts StageCostsOf(const ModelConfig& config);

}  // namespace polystrate
