// StepInputs: what a plan tells the operators, on the stage's device.
#pragma once

#include "engine/step_plan.h"
#include "kernels/core/device.h"
#include "kernels/ops.h"

namespace polystrate {

// Rows are tokens.
struct StepInputs {
  Tensor token_ids;     // [num_tokens] int32
  Tensor positions;     // [num_tokens] int32
  Tensor slot_mapping;  // [num_tokens] int32
  AttentionBatch batch;
};

// Of the whole plan; on the CPU they are the plan's own arrays, which must outlive the step.
//   block_tables: [num_seqs, max_blocks] int32, from BlockTables.
StepInputs UploadInputs(const Stream& stream, const StepPlan& plan, const Tensor& block_tables);

}  // namespace polystrate
