#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/philox.h"

namespace polystrate::cpu {
namespace {

constexpr float kGreedyTemperature = 1e-5f;

struct Candidate {
  float logit;
  int32_t id;
};

// Most likely first; of equals the lowest id. A total order, so every selection below is unique.
bool Before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// One row's distribution: weight(logit) = exp((logit - max) / temperature).
struct Row {
  const float* logits;
  int64_t vocab_size;
  float max;
  float inverse_temperature;

  double Weight(float logit) const {
    return std::exp(static_cast<double>((logit - max) * inverse_temperature));
  }
};

int32_t ArgMax(const Row& row) {
  return static_cast<int32_t>(std::find(row.logits, row.logits + row.vocab_size, row.max) -
                              row.logits);
}

// No filter: inverse of the cumulative distribution in the order of ids.
int32_t DrawFromAll(const CpuContext& context, const Row& row, double uniform, Arena* arena) {
  float* weights = arena->Get<float>(row.vocab_size);
  const double total = context.kernels().sum_exp(row.logits, row.vocab_size, row.max,
                                                 row.inverse_temperature, weights);
  const double target = uniform * total;
  double cumulative = 0.0;
  int32_t last = 0;
  for (int64_t i = 0; i < row.vocab_size; ++i) {
    if (weights[i] <= 0.0f) continue;
    last = static_cast<int32_t>(i);
    cumulative += static_cast<double>(weights[i]);
    if (cumulative > target) break;
  }
  return last;  // rounding may leave the target just above the whole sum: then the last one
}

// How many of the first `count` candidates, sorted, top_p keeps of a distribution that sums to
// total; 0 when they are not enough.
int64_t Nucleus(const Row& row, const Candidate* candidates, int64_t count, double top_p,
                double total) {
  double cumulative = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    cumulative += row.Weight(candidates[i].logit);
    if (cumulative >= top_p * total) return i + 1;
  }
  return 0;
}

// Sorts the best `count` candidates to the front.
void SortBest(Candidate* candidates, int64_t count, int64_t num_candidates) {
  if (count < num_candidates) {
    std::nth_element(candidates, candidates + count, candidates + num_candidates, Before);
  }
  std::sort(candidates, candidates + count, Before);
}

int32_t DrawFiltered(const CpuContext& context, const Row& row, const SampleRow& options,
                     double uniform, Arena* arena) {
  int64_t num_candidates = row.vocab_size;
  Candidate* candidates = arena->Get<Candidate>(num_candidates);
  for (int64_t i = 0; i < num_candidates; ++i) {
    candidates[i] = {row.logits[i], static_cast<int32_t>(i)};
  }
  double total = 0.0;
  const bool has_top_k = options.top_k > 0 && options.top_k < num_candidates;
  if (has_top_k) {
    SortBest(candidates, options.top_k, num_candidates);
    num_candidates = options.top_k;
    for (int64_t i = 0; i < num_candidates; ++i) total += row.Weight(candidates[i].logit);
  }
  int64_t kept = has_top_k ? num_candidates : 0;
  if (options.top_p < 1.0f) {
    if (!has_top_k) {
      total = context.kernels().sum_exp(row.logits, row.vocab_size, row.max,
                                        row.inverse_temperature, nullptr);
    }
    // The nucleus is mostly small: sort a few candidates, more only when those do not reach top_p.
    kept = 0;
    for (int64_t sorted = 64; kept == 0; sorted *= 8) {
      const int64_t count = std::min(sorted, num_candidates);
      if (!has_top_k) SortBest(candidates, count, num_candidates);
      kept = Nucleus(row, candidates, count, static_cast<double>(options.top_p), total);
      if (kept == 0 && count == num_candidates) kept = count;
    }
  }
  double kept_total = 0.0;
  for (int64_t i = 0; i < kept; ++i) kept_total += row.Weight(candidates[i].logit);
  const double target = uniform * kept_total;
  double cumulative = 0.0;
  int64_t chosen = 0;
  for (int64_t i = 0; i < kept; ++i) {
    const double weight = row.Weight(candidates[i].logit);
    if (weight <= 0.0) break;
    chosen = i;
    cumulative += weight;
    if (cumulative > target) break;
  }
  return candidates[chosen].id;
}

SampleResult SampleOne(const CpuContext& context, const float* logits, int64_t vocab_size,
                       const SampleRow& options, Arena* arena) {
  const RowSummary summary = context.kernels().summarize(logits, vocab_size);
  SampleResult result;
  if (summary.invalid || !std::isfinite(summary.max)) return result;
  Row row{logits, vocab_size, summary.max, 1.0f};
  const bool filtered = (options.top_k > 0 && options.top_k < vocab_size) || options.top_p < 1.0f;
  if (options.temperature < kGreedyTemperature) {
    result.token_id = ArgMax(row);
  } else {
    row.inverse_temperature = 1.0f / options.temperature;
    const double uniform = UniformDraw(options.seed, options.position);
    result.token_id = filtered ? DrawFiltered(context, row, options, uniform, arena)
                               : DrawFromAll(context, row, uniform, arena);
  }
  const double sum = context.kernels().sum_exp(logits, vocab_size, summary.max, 1.0f, nullptr);
  result.logprob = static_cast<float>(static_cast<double>(logits[result.token_id] - summary.max) -
                                      std::log(sum));
  return result;
}

}  // namespace

void Sample(CpuContext& context, const Tensor& logits, int64_t vocab_size,
            absl::Span<const SampleRow> rows, absl::Span<SampleResult> results) {
  ParallelFor(context, logits.dim(0), logits.dim(0) * vocab_size, [&](int64_t i, int thread) {
    results[i] = SampleOne(context, logits.data<float>() + i * logits.row_stride(), vocab_size,
                           rows[i], &context.thread_arena(thread));
  });
}

void LogProbs(CpuContext& context, const Tensor& logits, int64_t vocab_size,
              absl::Span<const int32_t> targets, absl::Span<float> logprobs) {
  ParallelFor(context, logits.dim(0), logits.dim(0) * vocab_size, [&](int64_t i, int) {
    const float* row = logits.data<float>() + i * logits.row_stride();
    const RowSummary summary = context.kernels().summarize(row, vocab_size);
    logprobs[i] = std::numeric_limits<float>::quiet_NaN();
    if (summary.invalid || !std::isfinite(summary.max)) return;
    CHECK(targets[i] >= 0 && targets[i] < vocab_size);
    const double sum = context.kernels().sum_exp(row, vocab_size, summary.max, 1.0f, nullptr);
    logprobs[i] =
        static_cast<float>(static_cast<double>(row[targets[i]] - summary.max) - std::log(sum));
  });
}

}  // namespace polystrate::cpu
