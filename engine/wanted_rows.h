// WantedRows: the rows of a step that are still needed once its last K and V are written.
//
// A layer's output matters to the K and V of owners above it, and to logits. Above the last owner
// only the second is left, so of a prompt only the last row goes on, and of a chunk in a prompt's
// middle none (YOCO, Sun et al. 2024, arXiv:2405.05254, does so by design). A legal cut has an
// owner behind it, so the last owner lies in the last stage: what stages hand over is always whole.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/step_plan.h"

namespace polystrate {

struct WantedRows {
  bool all = true;  // every row of the step; the rest is then not looked at
  // Of each sequence, its rows from the first that is sampled or scored on: attention takes a
  // sequence's queries to be the last of its tokens. A sequence without any stays in the batch with
  // no rows, so that block tables and context lengths are the plan's own.
  std::vector<int32_t> rows;          // [n] of the plan, ascending
  std::vector<int32_t> positions;     // [n]
  std::vector<int32_t> cu_seqlens_q;  // [num_seqs + 1]
  std::vector<int32_t> index;         // [num_tokens] where a row of the plan is in `rows`, or -1

  // Memory for plans of that many tokens, so that Find() takes none.
  void Reserve(int64_t max_tokens);
  void Find(const StepPlan& plan);

  // Where to find a row that is sampled or scored.
  int32_t Locate(int32_t plan_row) const { return all ? plan_row : index[plan_row]; }
};

}  // namespace polystrate
