// What tokens weigh in a draw: exp((logit - max) / temperature) as an integer, in units so small
// that a whole row just fits 64 bits.
#pragma once

#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/row_summary.cuh"
#include "kernels/ops.h"

namespace polystrate::cuda {

using Mass = unsigned long long;

// Where top_p alone decides, which tokens are too unlikely for it is known once the whole row has
// been added up: when its chunks are summarised, so that the draw need not look at them.
__device__ inline bool NeedsDrawnSum(const SampleRow& row, int32_t vocab_size) {
  return !row.IsGreedy() && !row.HasTopK(vocab_size) && row.top_p < 1.0f && !(row.min_p > 0.0f);
}

class Weights {
 public:
  __device__ Weights(const SampleRow& row, float max, int32_t vocab_size)
      : max_(max), inverse_temperature_(1.0f / row.temperature) {
    // 2^62 is the most that all tokens together can weigh.
    const int bits = 32 - __clz(static_cast<int>(vocab_size));
    unit_ = ldexpf(1.0f, 62 - bits);
    if (row.min_p > 0.0f) {
      // The first float32 that is not below the logarithm.
      const double least = log(static_cast<double>(row.min_p));
      least_ = static_cast<float>(least);
      if (static_cast<double>(least_) < least) least_ = nextafterf(least_, INFINITY);
    } else if (NeedsDrawnSum(row, vocab_size)) {
      // Those that weigh less have together less than half of 1 - top_p, so that the set which
      // reaches it does without them: the best token alone weighs a unit.
      least_ = logf(0.5f * (1.0f - fmaxf(0.0f, row.top_p)) / static_cast<float>(vocab_size));
    }
  }

  // What the whole row weighs, by its chunks; each warp does it for itself.
  __device__ void AddUp(const ChunkSummary* chunks, int num_chunks) {
    double sum = 0.0;
    for (int i = static_cast<int>(threadIdx.x) % kWarp; i < num_chunks; i += kWarp) {
      const float scaled = Scaled(LogitOf(chunks[i].drawn_best));
      sum += static_cast<double>(chunks[i].drawn_sum) * exp(static_cast<double>(scaled));
    }
    total_ = WarpReduce(sum, Plus()) * static_cast<double>(unit_);
  }

  // How far the logit is below the best, as a logarithm: -infinity to 0.
  __device__ float Scaled(float logit) const { return (logit - max_) * inverse_temperature_; }
  // 0 for tokens that min_p drops, or that are never drawn.
  __device__ Mass Of(float logit) const {
    const float scaled = Scaled(logit);
    return scaled >= least_ ? static_cast<Mass>(expf(scaled) * unit_) : 0;
  }
  // What AddUp came to, which also counts tokens that weigh nothing here; 0 without it.
  __device__ double total() const { return total_; }

 private:
  float max_, inverse_temperature_, unit_;
  float least_ = -INFINITY;
  double total_ = 0.0;
};

}  // namespace polystrate::cuda
