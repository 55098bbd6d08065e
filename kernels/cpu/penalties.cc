#include "kernels/cpu/penalties.h"

#include <algorithm>
#include <limits>

namespace polystrate::cpu {
namespace {

// In float64 and rounded once. -infinity stays, so that a banned token stays banned.
float Rounded(double logit) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (logit < -kLargest) return -std::numeric_limits<float>::infinity();
  return static_cast<float>(std::min(logit, kLargest));
}

float Penalised(float logit, int32_t count, const SampleRow& row) {
  auto x = static_cast<double>(logit);
  const auto repetition = static_cast<double>(row.repetition_penalty);
  x = x > 0.0 ? x / repetition : x * repetition;
  if (count > 0) {
    x -= static_cast<double>(row.frequency_penalty) * count;
    x -= static_cast<double>(row.presence_penalty);
  }
  return Rounded(x);
}

}  // namespace

bool AdjustsLogits(const SampleRow& row) {
  return row.history_begin < row.history_end || row.biases_begin < row.biases_end;
}

void AdjustLogits(const SampleRow& row, const SampleLists& lists, float* logits) {
  for (int32_t i = row.biases_begin; i < row.biases_end; ++i) {
    const TokenBias& bias = lists.biases[i];
    float& logit = logits[bias.token_id];
    logit = Rounded(static_cast<double>(logit) + static_cast<double>(bias.bias));
  }
  for (int32_t i = row.history_begin; i < row.history_end; ++i) {
    const TokenCount& token = lists.history[i];
    logits[token.token_id] = Penalised(logits[token.token_id], token.count, row);
  }
}

}  // namespace polystrate::cpu
