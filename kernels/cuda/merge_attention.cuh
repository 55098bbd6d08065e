// The second half of decode attention: the parts of a row become its result, by the thread block
// that is the last to have written some of them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/context_cut.cuh"
#include "kernels/cuda/decode_tile.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda {

// The results of parts, by [sequence][query head][part]: weights and outputs are relative to max
// (FoldMax), and outputs not yet divided by sum.
struct AttentionParts {
  float* out;          // [num_sequences, num_heads, max_parts, kWidth]
  float2* stats;       // [num_sequences, num_heads, max_parts]: max, sum
  uint32_t* num_done;  // for each blockIdx.x how many blocks are; null where there is one
  int max_parts;
  int min_spans;  // for CutContext
};

// The rows of a block: query heads [first_head, first_head + num_rows) of a sequence.
struct DecodeRows {
  int sequence;
  int token;
  int kv_head;
  int first_head;
  int num_rows;
};

// Whether this block is the last of `num_blocks` to come here: it can read what all have written.
// The counter is zero again then.
__device__ __forceinline__ bool IsLast(uint32_t* num_done, int num_blocks) {
  __shared__ bool is_last;
  __syncthreads();  // this block has written
  if (num_blocks == 1) return true;
  if (threadIdx.x == 0) {
    __threadfence();
    is_last = atomicAdd(num_done, 1u) + 1 == static_cast<uint32_t>(num_blocks);
    if (is_last) *num_done = 0;
    __threadfence();
  }
  __syncthreads();
  return is_last;
}

inline constexpr int kMergeColumns = 4;  // of a thread: 16 bytes of a part

// A thread's columns of a row, and the row's statistics.
struct MergeState {
  float max;
  float sum;
  float out[kMergeColumns];

  __device__ __forceinline__ void Clear() {
    max = -INFINITY;
    sum = 0.0f;
#pragma unroll
    for (int c = 0; c < kMergeColumns; ++c) out[c] = 0.0f;
  }
  // From the second-level cache: other blocks have written it.
  __device__ __forceinline__ void Load(const float2* stats, const float* columns) {
    const float2 row = __ldcg(stats);
    const float4 four = __ldcg(reinterpret_cast<const float4*>(columns));
    max = row.x;
    sum = row.y;
    out[0] = four.x;
    out[1] = four.y;
    out[2] = four.z;
    out[3] = four.w;
  }
  __device__ __forceinline__ void Add(const MergeState& state) {
    const FoldScale scale = FoldMax(state.max, &max);
    sum = Fold(sum, state.sum, scale);
#pragma unroll
    for (int c = 0; c < kMergeColumns; ++c) out[c] = Fold(out[c], state.out[c], scale);
  }
};

// Folds the parts of kStates rows (or columns of one), the first of which are at index[i], a row's
// parts side by side. Twice eight loads are on their way at once: 32 KB for a block, of which a
// multiprocessor takes about 60 KB in a microsecond.
template <int kWidth, int kStates>
__device__ __forceinline__ void FoldParts(const AttentionParts& parts, const ContextCut& cut,
                                          const int64_t (&index)[kStates], int column,
                                          MergeState (&total)[kStates]) {
  constexpr int kAhead = 8;
  MergeState span[kStates], next[kStates][kAhead];
#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    total[s].Clear();
    span[s].Clear();
  }
  for (int part = 0; part < cut.num_parts; part += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        const int64_t at = index[s] + part + i;
        if (part + i >= cut.num_parts) continue;
        next[s][i].Load(parts.stats + at, parts.out + at * kWidth + column);
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (part + i >= cut.num_parts) break;
      const bool ends = (part + i + 1) % cut.span_parts == 0 || part + i + 1 == cut.num_parts;
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        span[s].Add(next[s][i]);
        if (!ends) continue;
        total[s].Add(span[s]);
        span[s].Clear();
      }
    }
  }
}

// The results of the block's rows. A thread has four columns of a row at a time, or of two where
// there may be many rows.
//   Bytes: 4 width + 8 for each part of a row, from the second-level cache.
template <typename S>
__device__ __forceinline__ void MergeParts(const AttentionParams& params,
                                           const AttentionParts& parts, const ContextCut& cut,
                                           const DecodeRows& rows) {
  using T = typename S::T;
  constexpr int kStates = S::kRowTiles > 1 ? 2 : 1;
  constexpr int kRowThreads = S::kWidth / kMergeColumns;
  constexpr int kStep = kDecodeThreads / kRowThreads;  // rows that the block has at a time
  static_assert(kDecodeThreads % kRowThreads == 0);
  const int column = static_cast<int>(threadIdx.x) % kRowThreads * kMergeColumns;
  const int64_t first_row = int64_t{rows.sequence} * params.num_heads + rows.first_head;
  for (int row = threadIdx.x / kRowThreads; row < rows.num_rows; row += kStates * kStep) {
    int64_t index[kStates];
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      index[s] = (first_row + min(row + s * kStep, rows.num_rows - 1)) * parts.max_parts;
    }
    MergeState total[kStates];
    FoldParts<S::kWidth>(parts, cut, index, column, total);
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      if (row + s * kStep >= rows.num_rows) break;
      T* out = static_cast<T*>(params.out) + rows.token * params.out_stride +
               int64_t{rows.first_head + row + s * kStep} * params.head_dim + column;
#pragma unroll
      for (int c = 0; c < kMergeColumns; ++c) {
        if (column + c < params.head_dim) out[c] = FromFloat<T>(total[s].out[c] / total[s].sum);
      }
    }
  }
}

}  // namespace polystrate::cuda
