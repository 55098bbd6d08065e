#include "kernels/cpu/scoring.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"

namespace polystrate::cpu {
namespace {

int32_t Rank(const float* logits, int64_t vocab_size, int32_t target) {
  const float logit = logits[target];
  int32_t before = 0;
  for (int64_t i = 0; i < vocab_size; ++i) before += logits[i] > logit ? 1 : 0;
  for (int64_t i = 0; i < target; ++i) before += logits[i] == logit ? 1 : 0;
  return before + 1;
}

// The `count` largest logits with their ids, largest first, of equals the lowest id first.
void TakeLargest(const float* logits, int64_t vocab_size, int64_t count, TokenLogProb* best) {
  int64_t held = 0;
  for (int64_t i = 0; i < vocab_size; ++i) {
    if (held == count && !(logits[i] > best[count - 1].logprob)) continue;
    int64_t at = held < count ? held++ : count - 1;
    for (; at > 0 && best[at - 1].logprob < logits[i]; --at) best[at] = best[at - 1];
    best[at] = {static_cast<int32_t>(i), logits[i]};
  }
}

void ScoreOne(const CpuContext& context, const float* logits, int64_t vocab_size,
              const ScoreRow& row, ScoreResult* result) {
  const RowSummary summary = context.kernels().summarize(logits, vocab_size);
  if (HasDistribution(summary)) {
    ScoreTarget(context, logits, vocab_size, summary, row, result);
  } else {
    *result = ScoreResult{.logprob = std::numeric_limits<float>::quiet_NaN()};
  }
}

}  // namespace

bool HasDistribution(const RowSummary& summary) {
  return !summary.invalid && std::isfinite(summary.max);
}

void ScoreTarget(const CpuContext& context, const float* logits, int64_t vocab_size,
                 const RowSummary& summary, const ScoreRow& row, ScoreResult* result) {
  *result = ScoreResult();
  const double log_sum =
      std::log(context.kernels().sum_exp(logits, vocab_size, summary.max, 1.0f, nullptr));
  const auto log_softmax = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit - summary.max) - log_sum);
  };
  result->logprob = log_softmax(logits[row.target]);
  if (row.num_candidates == kLogProbOnly) return;
  result->rank = Rank(logits, vocab_size, row.target);
  const int64_t count = std::min<int64_t>(row.num_candidates, vocab_size);
  if (count == 0) return;
  TakeLargest(logits, vocab_size, count, result->candidates.data());
  for (int64_t i = 0; i < count; ++i) {
    result->candidates[i].logprob = log_softmax(result->candidates[i].logprob);
  }
}

void Score(CpuContext& context, const Tensor& logits, int64_t vocab_size,
           absl::Span<const ScoreRow> rows, absl::Span<ScoreResult> results) {
  ParallelFor(context, logits.dim(0), logits.dim(0) * vocab_size, [&](int64_t i, int) {
    ScoreOne(context, logits.data<float>() + i * logits.row_stride(), vocab_size, rows[i],
             &results[i]);
  });
}

}  // namespace polystrate::cpu
