// How the prefill kernels cut a ragged batch: the query rows of a sequence that read one KV head
// (row = token * heads + head, so that each key read serves all of them) in tiles of kRows.
#pragma once

#include "kernels/cuda/attention.cuh"

namespace polystrate::cuda {

inline constexpr unsigned kWholeWarp = 0xffffffffu;
__device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ __forceinline__ int Warp() { return static_cast<int>(threadIdx.x) / 32; }

struct QueryTile {
  const int32_t* block_table;
  int kv_head;
  int first_head;  // of the query heads that read it
  int num_heads;
  int first_token;     // of the sequence, in query and out
  int first_position;  // of the sequence's first query
  int first_row;       // of the tile, in the sequence
  int num_rows;        // none: this block has nothing to do
  int key_end;         // no row sees this key or one behind it
  int mask_begin;      // every row sees the keys before this one

  // `row` of the tile's: its position, and where it begins in a matrix of rows `stride` apart.
  __device__ int Position(int row) const { return first_position + (first_row + row) / num_heads; }
  __device__ int64_t Offset(int row, int64_t stride, int head_dim) const {
    const int token = (first_row + row) / num_heads;
    const int head = first_head + first_row + row - token * num_heads;
    return (first_token + token) * stride + int64_t{head} * head_dim;
  }
};

// The host does not know the sequences' lengths. So sequence i is given the places [Start(i),
// Start(i + 1)), Start(i) = cu_seqlens_q[i] * queries_per_kv_head / rows_per_tile + i: never fewer
// than it has tiles, and over all sequences at most one too many for each.
inline int NumTilePlaces(const AttentionParams& params, int rows_per_tile) {
  return static_cast<int>(int64_t{params.num_tokens} * params.queries_per_kv_head / rows_per_tile) +
         params.num_sequences;
}
__device__ __forceinline__ int TileStart(const AttentionParams& params, int sequence,
                                         int rows_per_tile) {
  const int64_t rows = int64_t{__ldg(params.cu_seqlens_q + sequence)} * params.queries_per_kv_head;
  return static_cast<int>(rows / rows_per_tile) + sequence;
}

// The last sequence whose places begin at `place` or before. All lanes of a warp take part: each
// round divides the range by 32.
__device__ __forceinline__ int SequenceAt(const AttentionParams& params, int place,
                                          int rows_per_tile) {
  int begin = 0;
  const int lane = Lane();
  for (int count = params.num_sequences; count > 1;) {
    const int step = (count + 31) / 32;
    const bool reached =
        lane * step < count && TileStart(params, begin + lane * step, rows_per_tile) <= place;
    const int last = __popc(__ballot_sync(kWholeWarp, reached)) - 1;
    begin += last * step;
    count = min(step, count - last * step);
  }
  return begin;
}

// What lies at `place` for a KV head. A sequence's last tiles, which see most keys, come first:
// that evens out the end of the launch.
__device__ __forceinline__ QueryTile TileAt(const AttentionParams& params, int place, int kv_head,
                                            int rows_per_tile) {
  const int sequence = SequenceAt(params, place, rows_per_tile);
  const HeadRange heads = HeadsOf(params, kv_head);
  QueryTile tile = {};
  tile.kv_head = kv_head;
  tile.block_table = params.block_tables + sequence * params.block_table_stride;
  tile.first_head = heads.begin;
  tile.num_heads = heads.end - heads.begin;
  tile.first_token = __ldg(params.cu_seqlens_q + sequence);
  const int num_queries = __ldg(params.cu_seqlens_q + sequence + 1) - tile.first_token;
  if (num_queries < 2 || tile.num_heads == 0) return tile;  // none, or the decode kernel's

  const int num_rows = num_queries * tile.num_heads;
  const int num_tiles = (num_rows + rows_per_tile - 1) / rows_per_tile;
  const int index = num_tiles - 1 - (place - TileStart(params, sequence, rows_per_tile));
  if (index < 0) return tile;
  const int context_len = __ldg(params.context_lens + sequence);
  tile.first_position = context_len - num_queries;
  tile.first_row = index * rows_per_tile;
  tile.num_rows = min(rows_per_tile, num_rows - tile.first_row);
  tile.key_end = min(context_len, tile.Position(tile.num_rows - 1) + 1);
  tile.mask_begin = tile.Position(0) + 1;
  return tile;
}

}  // namespace polystrate::cuda
