// What is known of a row of logits once it has been read: its best token and its log-sum-exp. Rows
// are read in chunks, one block each, so that even a single row keeps many multiprocessors busy;
// whoever needs a row puts its chunks' summaries together.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/place.cuh"

namespace polystrate::cuda {

inline constexpr int kChunkTokens = 4096;
inline constexpr int kChunkThreads = 256;  // of the block that summarises one
inline constexpr int kTokensPerThread = kChunkTokens / kChunkThreads;

inline int64_t NumChunks(int64_t vocab_size) {
  return (vocab_size + kChunkTokens - 1) / kChunkTokens;
}

struct ChunkSummary {
  Place best;        // of the logits as they came
  Place drawn_best;  // of those that a token is drawn from
  float sum;         // of exp(logit - best's)
  float drawn_sum;   // of exp((logit - drawn_best's) / temperature), where Sample draws
  int32_t before;    // tokens that come before the target of Score
};

// A thread's share of a chunk: values[4 q + e] is its token ChunkOffset(q) + e.
using ChunkValues = float[kTokensPerThread];
__device__ __forceinline__ int ChunkOffset(int q) {
  return (q * kChunkThreads + static_cast<int>(threadIdx.x)) * 4;
}

// Of the `count` tokens at `chunk`; -infinity stands for those behind them. 16 bytes at a time
// where the address allows.
__device__ inline void LoadChunk(const float* __restrict__ chunk, int count, ChunkValues& values) {
  const bool whole = count == kChunkTokens && reinterpret_cast<uintptr_t>(chunk) % 16 == 0;
#pragma unroll
  for (int q = 0; q < kTokensPerThread / 4; ++q) {
    const int offset = ChunkOffset(q);
    if (whole) {
      const float4 four = __ldg(reinterpret_cast<const float4*>(chunk + offset));
      values[4 * q] = four.x;
      values[4 * q + 1] = four.y;
      values[4 * q + 2] = four.z;
      values[4 * q + 3] = four.w;
      continue;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      values[4 * q + e] = offset + e < count ? __ldg(chunk + offset + e) : -INFINITY;
    }
  }
}

// `begin`: id of the chunk's first token.
__device__ inline Place BestOfChunk(const ChunkValues& values, int32_t begin, Place* partials) {
  Place best = kNoPlace;
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
    best = Least()(best, PlaceOf(values[i], begin + ChunkOffset(i / 4) + i % 4));
  }
  return BlockReduce(best, kNoPlace, Least(), partials);
}

// The sum of exp((value - max) scale), in one order whatever else the batch holds. A chunk of
// -infinity alone has none.
__device__ inline float SumExpOfChunk(const ChunkValues& values, float max, float scale,
                                      float* partials) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
    sum += max == -INFINITY ? 0.0f : expf((values[i] - max) * scale);
  }
  return BlockReduce(sum, 0.0f, Plus(), partials);
}

struct RowSummary {
  Place best;
  Place drawn_best;
  double log_sum;  // log of the sum of exp(logit - max)
  int32_t before;

  __device__ float max() const { return LogitOf(best); }
  // False: the row holds a NaN, +infinity or nothing finite, so its logits make no distribution.
  __device__ bool HasDistribution() const { return isfinite(max()); }
  __device__ float LogSoftmax(float logit) const {
    return static_cast<float>(static_cast<double>(logit - max()) - log_sum);
  }
};

// Of a row's chunks; each warp does it for itself.
__device__ inline RowSummary SummarizeRow(const ChunkSummary* chunks, int num_chunks) {
  const int lane = threadIdx.x % kWarp;
  RowSummary row = {kNoPlace, kNoPlace, 0.0, 0};
  for (int i = lane; i < num_chunks; i += kWarp) {
    row.best = Least()(row.best, chunks[i].best);
    row.drawn_best = Least()(row.drawn_best, chunks[i].drawn_best);
    row.before += chunks[i].before;
  }
  row.best = WarpReduce(row.best, Least());
  row.drawn_best = WarpReduce(row.drawn_best, Least());
  row.before = WarpReduce(row.before, Plus());
  double sum = 0.0;
  for (int i = lane; i < num_chunks; i += kWarp) {
    sum += static_cast<double>(chunks[i].sum) *
           exp(static_cast<double>(LogitOf(chunks[i].best)) - static_cast<double>(row.max()));
  }
  row.log_sum = log(WarpReduce(sum, Plus()));
  return row;
}

}  // namespace polystrate::cuda
