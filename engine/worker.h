// The loop of every rank but 0: plans in, steps done, until the plan that says stop.
#pragma once

#include "engine/pipeline_stage.h"
#include "parallel/control_channel.h"

namespace polystrate {

void RunWorker(ControlChannel& control, PipelineStage& stage);

}  // namespace polystrate
