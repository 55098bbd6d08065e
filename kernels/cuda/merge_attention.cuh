// The second half of decode attention: the parts of a row become its result.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/context_cut.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda {

// The results of parts, by [sequence][query head][part]: weights and outputs are relative to max
// (FoldMax), and outputs not yet divided by sum.
struct AttentionParts {
  float* out;     // [num_sequences, num_heads, max_parts, head_dim]
  float2* stats;  // [num_sequences, num_heads, max_parts]: max, sum
  int max_parts;
  int piece_keys;  // for CutContext, as is min_spans
  int min_spans;
};

inline constexpr int kMergeThreads = 128;

// A lane's columns lane, lane + 32, ... of a row, and the row's statistics.
template <int kColumns>
struct MergeRow {
  float max;
  float sum;
  float out[kColumns];

  __device__ __forceinline__ void Clear() {
    max = -INFINITY;
    sum = 0.0f;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) out[c] = 0.0f;
  }
  __device__ __forceinline__ void Load(const AttentionParts& parts, int64_t index, int head_dim,
                                       int lane) {
    const float2 stats = parts.stats[index];
    max = stats.x;
    sum = stats.y;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = lane + 32 * c;
      out[c] = column < head_dim ? parts.out[index * head_dim + column] : 0.0f;
    }
  }
  __device__ __forceinline__ void Add(const MergeRow& row) {
    const FoldScale scale = FoldMax(row.max, &max);
    sum = Fold(sum, row.sum, scale);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) out[c] = Fold(out[c], row.out[c], scale);
  }
};

// Folds parts [0, cut.num_parts) of the row whose first is at `first`; four are on their way from
// memory at once.
template <int kColumns>
__device__ __forceinline__ MergeRow<kColumns> FoldParts(const AttentionParts& parts, int64_t first,
                                                        const ContextCut& cut, int head_dim,
                                                        int lane) {
  constexpr int kAhead = 4;
  MergeRow<kColumns> total, span, next[kAhead];
  total.Clear();
  span.Clear();
  for (int part = 0; part < cut.num_parts; part += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (part + i < cut.num_parts) next[i].Load(parts, first + part + i, head_dim, lane);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (part + i >= cut.num_parts) break;
      span.Add(next[i]);
      if ((part + i + 1) % cut.span_parts != 0 && part + i + 1 < cut.num_parts) continue;
      total.Add(span);
      span.Clear();
    }
  }
  return total;
}

// One warp for each row (sequence, query head); rows of one part or none are the decode kernel's.
// Bytes: (4 head_dim + 8) for each part of a row, from the second-level cache as a rule.
template <typename T, int kColumns>
__global__ __launch_bounds__(kMergeThreads) void MergeAttention(const AttentionParams params,
                                                                const AttentionParts parts) {
  WaitForKernelBefore();
  LetNextKernelStart();
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * (kMergeThreads / 32) + threadIdx.x / 32;
  if (row >= int64_t{params.num_sequences} * params.num_heads) return;
  const int sequence = static_cast<int>(row / params.num_heads);
  const int head = static_cast<int>(row - int64_t{sequence} * params.num_heads);
  const int token = __ldg(params.cu_seqlens_q + sequence);
  if (__ldg(params.cu_seqlens_q + sequence + 1) - token != 1) return;
  const ContextCut cut =
      CutContext(__ldg(params.context_lens + sequence), parts.piece_keys, parts.min_spans);
  if (cut.num_parts <= 1) return;
  const MergeRow<kColumns> total =
      FoldParts<kColumns>(parts, row * parts.max_parts, cut, params.head_dim, lane);
  T* out =
      static_cast<T*>(params.out) + token * params.out_stride + int64_t{head} * params.head_dim;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = lane + 32 * c;
    if (column < params.head_dim) out[column] = FromFloat<T>(total.out[c] / total.sum);
  }
}

}  // namespace polystrate::cuda
