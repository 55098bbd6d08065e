// What the attention kernels share: where a sequence's heads and keys lie.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/attention.h"

namespace polystrate::cuda {

// Query heads [begin, end) of this rank read one KV head; there may be none.
struct HeadRange {
  int begin;
  int end;
};

__device__ __forceinline__ HeadRange HeadsOf(const AttentionParams& params, int kv_head) {
  const int first = kv_head * params.queries_per_kv_head - params.query_head_phase;
  const int begin = max(0, first);
  return {begin, max(begin, min(params.num_heads, first + params.queries_per_kv_head))};
}

// Where the row of a position begins in the cache, in elements. `block_table` is the sequence's.
__device__ __forceinline__ int64_t CacheRow(const AttentionParams& params,
                                            const int32_t* block_table, int kv_head, int position) {
  const int block = position / params.block_size;
  const int64_t row = int64_t{kv_head} * params.block_size + (position - block * params.block_size);
  return __ldg(block_table + block) * params.block_stride + row * params.head_dim;
}

}  // namespace polystrate::cuda
