// What Score and Sample tell about a token of a row.
#pragma once

#include "kernels/cpu/context.h"
#include "kernels/ops.h"

namespace polystrate::cpu {

// False: the row holds a NaN, +infinity or nothing finite, so its logits make no distribution.
bool HasDistribution(const RowSummary& summary);

// *result for row.target of a row that has a distribution; `summary` is the row's. Without rank and
// candidates for kLogProbOnly.
void ScoreTarget(const CpuContext& context, const float* logits, int64_t vocab_size,
                 const RowSummary& summary, const ScoreRow& row, ScoreResult* result);

}  // namespace polystrate::cpu
