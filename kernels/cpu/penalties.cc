#include "kernels/cpu/penalties.h"

#include "kernels/penalties.h"

namespace polystrate::cpu {

void AdjustLogits(const SampleRow& row, const SampleLists& lists, float* logits) {
  for (int32_t i = row.biases_begin; i < row.biases_end; ++i) {
    const TokenBias& bias = lists.biases[i];
    logits[bias.token_id] = Biased(logits[bias.token_id], bias.bias);
  }
  for (int32_t i = row.history_begin; i < row.history_end; ++i) {
    const TokenCount& token = lists.history[i];
    logits[token.token_id] = Penalised(logits[token.token_id], token.count, row);
  }
}

}  // namespace polystrate::cpu
