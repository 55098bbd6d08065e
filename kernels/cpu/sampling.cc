#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/core/philox.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/penalties.h"
#include "kernels/cpu/scoring.h"

namespace polystrate::cpu {
namespace {

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

  // Logarithm of the weight.
  double Scaled(float logit) const {
    return static_cast<double>((logit - max) * inverse_temperature);
  }
  double Weight(float logit) const { return std::exp(Scaled(logit)); }
};

int32_t ArgMax(const Row& row) {
  return static_cast<int32_t>(std::find(row.logits, row.logits + row.vocab_size, row.max) -
                              row.logits);
}

// Zero for weights below `least`. Returns the sum of the others.
double DropBelow(float least, int64_t n, float* weights) {
  double total = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    weights[i] = weights[i] < least ? 0.0f : weights[i];
    total += static_cast<double>(weights[i]);
  }
  return total;
}

// No filter that has to sort: inverse of the cumulative distribution in the order of ids.
int32_t DrawFromAll(const CpuContext& context, const Row& row, float min_p, double uniform,
                    float* weights) {
  double total = context.kernels().sum_exp(row.logits, row.vocab_size, row.max,
                                           row.inverse_temperature, weights);
  if (min_p > 0.0f) total = DropBelow(min_p, row.vocab_size, weights);
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

// The tokens at least `min_p` times as likely as the likeliest, in the order of ids. Returns how
// many.
int64_t TakeMinP(const Row& row, double min_p, Candidate* candidates) {
  const double least = std::log(min_p);  // of 0: -infinity, which all reach
  int64_t count = 0;
  for (int64_t i = 0; i < row.vocab_size; ++i) {
    candidates[count] = {row.logits[i], static_cast<int32_t>(i)};
    count += row.Scaled(row.logits[i]) >= least ? 1 : 0;
  }
  return count;
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

// Bytes of scratch that Draw takes.
int64_t DrawScratch(const SampleRow& options, int64_t vocab_size) {
  const size_t per_token =
      options.DrawsInOrder(vocab_size) ? sizeof(Candidate) + sizeof(float) : sizeof(float);
  return vocab_size * static_cast<int64_t>(per_token);
}

int32_t DrawFromBest(const CpuContext& context, const Row& row, const SampleRow& options,
                     double uniform, void* scratch) {
  const int64_t vocab_size = row.vocab_size;
  auto* candidates = static_cast<Candidate*>(scratch);
  auto* weights = reinterpret_cast<float*>(candidates + vocab_size);
  const auto top_p = static_cast<double>(options.top_p);
  const bool has_top_k = options.HasTopK(vocab_size);
  if (!has_top_k && options.min_p <= 0.0f) {
    const int64_t count = TakeTopP(context, row, top_p, weights, candidates);
    return DrawFromSorted(row, candidates, count, uniform);
  }
  const int64_t likely = TakeMinP(row, static_cast<double>(options.min_p), candidates);
  int64_t count = has_top_k ? std::min<int64_t>(options.top_k, likely) : likely;
  SortBest(candidates, count, likely);
  if (options.top_p < 1.0f) {
    double total = 0.0;
    for (int64_t i = 0; i < count; ++i) total += row.Weight(candidates[i].logit);
    const int64_t kept = CountToReach(row, candidates, count, top_p * total);
    if (kept > 0) count = kept;
  }
  return DrawFromSorted(row, candidates, count, uniform);
}

int32_t Draw(const CpuContext& context, Row row, const SampleRow& options, void* scratch) {
  row.inverse_temperature = 1.0f / options.temperature;
  const double uniform = UniformDraw(options.seed, options.position);
  return options.DrawsInOrder(row.vocab_size)
             ? DrawFromBest(context, row, options, uniform, scratch)
             : DrawFromAll(context, row, options.min_p, uniform, static_cast<float*>(scratch));
}

void SampleOne(const CpuContext& context, const float* logits, int64_t vocab_size,
               const SampleRow& options, const SampleLists& lists, Arena* arena,
               SampleResult* result) {
  *result = SampleResult();
  const RowSummary summary = context.kernels().summarize(logits, vocab_size);
  if (!HasDistribution(summary)) {
    result->logprob = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const bool greedy = options.IsGreedy();
  const bool adjusted = options.AdjustsLogits();
  const int64_t draw_bytes = greedy ? 0 : DrawScratch(options, vocab_size);
  const int64_t copy_bytes = adjusted ? vocab_size * static_cast<int64_t>(sizeof(float)) : 0;
  auto* scratch = static_cast<uint8_t*>(arena->Get(draw_bytes + copy_bytes));
  Row row{logits, vocab_size, summary.max, 1.0f};
  if (adjusted) {
    auto* copy = reinterpret_cast<float*>(scratch + draw_bytes);
    std::copy(logits, logits + vocab_size, copy);
    AdjustLogits(options, lists, copy);
    row.logits = copy;
    row.max = context.kernels().summarize(copy, vocab_size).max;
    if (!std::isfinite(row.max)) return;  // all that is left is banned
  }
  result->token_id = greedy ? ArgMax(row) : Draw(context, row, options, scratch);
  ScoreTarget(context, logits, vocab_size, summary, {result->token_id, options.num_candidates},
              result);
}

}  // namespace

void Sample(CpuContext& context, const Tensor& logits, int64_t vocab_size,
            absl::Span<const SampleRow> rows, absl::Span<SampleResult> results,
            const SampleLists& lists, const Tensor& drawn) {
  ParallelFor(context, logits.dim(0), logits.dim(0) * vocab_size, [&](int64_t i, int thread) {
    SampleOne(context, logits.data<float>() + i * logits.row_stride(), vocab_size, rows[i], lists,
              &context.thread_arena(thread), &results[i]);
    if (!drawn.empty()) drawn.data<int32_t>()[i] = results[i].token_id;
  });
}

}  // namespace polystrate::cpu
