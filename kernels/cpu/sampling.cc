#include <algorithm>
#include <cmath>

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

// Sorts the best `count` candidates to the front.
void SortBest(Candidate* candidates, int64_t count, int64_t num_candidates) {
  if (count < num_candidates) {
    std::nth_element(candidates, candidates + count, candidates + num_candidates, Before);
  }
  std::sort(candidates, candidates + count, Before);
}

// The `top_k` best of the row, sorted. Returns how many.
int64_t TakeTopK(const Row& row, int64_t top_k, Candidate* candidates) {
  for (int64_t i = 0; i < row.vocab_size; ++i) {
    candidates[i] = {row.logits[i], static_cast<int32_t>(i)};
  }
  SortBest(candidates, top_k, row.vocab_size);
  return top_k;
}

// How many of the first `count` candidates, sorted, it takes to reach `target`; 0: all do not.
int64_t CountToReach(const Row& row, const Candidate* candidates, int64_t count, double target) {
  double cumulative = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    cumulative += row.Weight(candidates[i].logit);
    if (cumulative >= target) return i + 1;
  }
  return 0;
}

// The smallest set of best candidates of the whole row that reaches top_p, sorted. Returns how
// many.
int64_t TakeTopP(const CpuContext& context, const Row& row, double top_p, float* weights,
                 Candidate* candidates) {
  const double total = context.kernels().sum_exp(row.logits, row.vocab_size, row.max,
                                                 row.inverse_temperature, weights);
  // All tokens below this weight together have less than 1 - top_p: the set does without them. Half
  // of it leaves room for rounding.
  const auto least =
      static_cast<float>((1.0 - top_p) * total * 0.5 / static_cast<double>(row.vocab_size));
  int64_t num_candidates = 0;
  for (int64_t i = 0; i < row.vocab_size; ++i) {
    if (weights[i] >= least) {
      candidates[num_candidates++] = {row.logits[i], static_cast<int32_t>(i)};
    }
  }
  // The set is mostly small: sort a few candidates, more only when those do not reach top_p.
  for (int64_t sorted = 64;; sorted *= 4) {
    const int64_t count = std::min(sorted, num_candidates);
    SortBest(candidates, count, num_candidates);
    const int64_t kept = CountToReach(row, candidates, count, top_p * total);
    if (kept > 0) return kept;
    if (count == num_candidates) return count;
  }
}

// Inverse of the cumulative distribution over sorted candidates.
int32_t DrawFromSorted(const Row& row, const Candidate* candidates, int64_t count, double uniform) {
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) total += row.Weight(candidates[i].logit);
  const double target = uniform * total;
  double cumulative = 0.0;
  int64_t chosen = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double weight = row.Weight(candidates[i].logit);
    if (weight <= 0.0) break;
    chosen = i;
    cumulative += weight;
    if (cumulative > target) break;
  }
  return candidates[chosen].id;
}

int32_t DrawFiltered(const CpuContext& context, const Row& row, const SampleRow& options,
                     double uniform, Arena* arena) {
  const int64_t vocab_size = row.vocab_size;
  auto* candidates = static_cast<Candidate*>(
      arena->Get(vocab_size * static_cast<int64_t>(sizeof(Candidate) + sizeof(float))));
  auto* weights = reinterpret_cast<float*>(candidates + vocab_size);
  const auto top_p = static_cast<double>(options.top_p);
  int64_t count = 0;
  if (options.top_k > 0 && options.top_k < vocab_size) {
    count = TakeTopK(row, options.top_k, candidates);
    if (options.top_p < 1.0f) {
      double total = 0.0;
      for (int64_t i = 0; i < count; ++i) total += row.Weight(candidates[i].logit);
      const int64_t kept = CountToReach(row, candidates, count, top_p * total);
      if (kept > 0) count = kept;
    }
  } else {
    count = TakeTopP(context, row, top_p, weights, candidates);
  }
  return DrawFromSorted(row, candidates, count, uniform);
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

}  // namespace polystrate::cpu
