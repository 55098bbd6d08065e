// The slice of a weight that one tensor-parallel rank holds (Megatron-LM, arXiv:1909.08053). Pure
// arithmetic.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace polystrate {

// `count` real elements from `begin`; the rank stores `padded` >= count, the rest zero. All ranks
// of a group have the same `padded`, so their matrices have one shape.
struct ShardRange {
  int64_t begin = 0;
  int64_t count = 0;
  int64_t padded = 0;
};

// Splits `size` over tp_size ranks in equal parts, each rounded up to `alignment` elements. Zero
// rows and columns are exact: activation(0) = 0 and 0 * x = 0.
inline ShardRange Split(int64_t size, int tp_size, int tp_rank, int64_t alignment) {
  const int64_t share = (size + tp_size - 1) / tp_size;
  const int64_t padded = (share + alignment - 1) / alignment * alignment;
  const int64_t begin = std::min(size, padded * tp_rank);
  return {begin, std::min(size - begin, padded), padded};
}

// The heads of one rank. Where tp_size divides num_kv_heads they are sharded; otherwise the rank
// holds the KV heads its queries need, and neighbours hold copies.
struct HeadShard {
  int query_begin = 0;
  int query_count = 0;
  int kv_begin = 0;
  int kv_count = 0;
  int queries_per_kv_head = 1;  // of the whole model
  // Query head q of this rank reads KV head (q + phase) / queries_per_kv_head of this rank.
  int phase = 0;
};

// INVALID_ARGUMENT when tp_size does not divide num_heads.
inline absl::Status CheckTpDividesHeads(int num_heads, int tp_size) {
  if (tp_size >= 1 && num_heads % tp_size == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--tp ", tp_size, " does not divide the model's ", num_heads,
                   " attention heads; every rank must hold the same number of heads"));
}

inline HeadShard ShardHeads(int num_heads, int num_kv_heads, int tp_size, int tp_rank) {
  CHECK_EQ(num_heads % tp_size, 0);
  CHECK_EQ(num_heads % num_kv_heads, 0);
  HeadShard shard;
  shard.queries_per_kv_head = num_heads / num_kv_heads;
  shard.query_count = num_heads / tp_size;
  shard.query_begin = shard.query_count * tp_rank;
  shard.kv_begin = shard.query_begin / shard.queries_per_kv_head;
  const int last_query = shard.query_begin + shard.query_count - 1;
  shard.kv_count = last_query / shard.queries_per_kv_head - shard.kv_begin + 1;
  shard.phase = shard.query_begin % shard.queries_per_kv_head;
  return shard;
}

}  // namespace polystrate
