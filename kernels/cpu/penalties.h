// What a row's biases and history do to its logits before a token is chosen.
#pragma once

#include "kernels/ops.h"

namespace polystrate::cpu {

// logits: [vocab_size], changed in place; sparse, so the cost is that of the row's lists.
void AdjustLogits(const SampleRow& row, const SampleLists& lists, float* logits);

}  // namespace polystrate::cpu
