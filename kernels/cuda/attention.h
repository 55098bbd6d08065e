// Paged attention on GPUs: PagedAttention (kernels/cuda/ops.h) hands the sequences that bring one
// query to one kernel and those that bring more to another. Which one computes a sequence, and how
// it is cut, depends on that sequence alone, so its results do not depend on the batch.
#pragma once

#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/cuda/context.h"

namespace polystrate::cuda {

// The arguments of PagedAttention as kernels take them, by value. Pointers are the device's;
// strides and sizes are in elements.
struct AttentionParams {
  DType dtype;  // T, of query, out and cache
  const void* query;
  int64_t query_stride;  // from token to token
  void* out;
  int64_t out_stride;
  const void* key;  // [num_blocks, num_kv_heads, block_size, head_dim] T
  const void* value;
  int64_t block_stride;         // num_kv_heads * block_size * head_dim
  const int32_t* cu_seqlens_q;  // [num_sequences + 1]
  const int32_t* context_lens;  // [num_sequences]
  const int32_t* block_tables;  // [num_sequences, block_table_stride]
  int64_t block_table_stride;
  const float* cos_sin;  // [max_position, rotary_dim]; null: keys are read as they are
  int rotary_dim;
  int num_tokens;
  int num_sequences;
  int num_heads;  // this rank's, as are the KV heads
  int num_kv_heads;
  int head_dim;
  int block_size;
  // Query head q reads KV head (q + query_head_phase) / queries_per_kv_head.
  int queries_per_kv_head;
  int query_head_phase;
  float scale;              // > 0
  int64_t max_seqlen_q;     // bounds, for the shapes of launches
  int64_t max_context_len;  // of any sequence
  // Rows of the cache, and heads of query and out, begin at multiples of 16 bytes.
  bool cache_aligned;
  bool query_aligned;
  bool out_aligned;
};

// Computes the sequences that have exactly one query; what the others' rows of `out` hold stays.
void DecodeAttention(CudaContext& context, const AttentionParams& params);

// Computes the sequences that have two queries or more; what the others' rows of `out` hold stays.
void PrefillAttention(CudaContext& context, const AttentionParams& params);
// The same for 16-bit types and heads of up to 128, where context.warpgroups(). False: not for
// these parameters, and nothing was enqueued.
bool WarpgroupPrefillAttention(CudaContext& context, const AttentionParams& params);
// The same for every shape and type, without tensor cores.
void PlainPrefillAttention(CudaContext& context, const AttentionParams& params);

}  // namespace polystrate::cuda
