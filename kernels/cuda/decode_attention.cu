// Paged attention for sequences that bring one query (FlashDecoding's split over the context, Dao
// et al. 2023), as decode steps do, in one kernel: the last block of a row's merges their parts.
//
// A block takes one sequence, one KV head and one part of the context after another, and all query
// heads that read the KV head: up to 80 where head_dim is at most 128, 32 up to 256, 16 beyond that
// and in float32; blocks for further rows come next to it and find K and V in the second-level
// cache. Keys and values stream through shared memory, S::kStages tiles of 16 KiB each or so;
// tensor cores multiply them, even for a single row: of what CUDA cores would issue for 16-bit
// elements, converting them alone is more.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/decode_softmax.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/merge_attention.cuh"

namespace polystrate::cuda {
namespace {

constexpr int kBlocksPerSm = 2;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct DecodePlan {
  AttentionParts parts;
  int row_blocks;  // blocks that share a KV head's rows
};

template <typename S>
__device__ __forceinline__ DecodeRows RowsOf(const AttentionParams& params, int row_blocks) {
  const int sequence_blocks = params.num_kv_heads * row_blocks;
  DecodeRows rows;
  rows.sequence = static_cast<int>(blockIdx.x) / sequence_blocks;
  const int index = static_cast<int>(blockIdx.x) - rows.sequence * sequence_blocks;
  rows.kv_head = index / row_blocks;
  const HeadRange heads = HeadsOf(params, rows.kv_head);
  rows.first_head = heads.begin + (index - rows.kv_head * row_blocks) * S::kRows;
  rows.num_rows = min(S::kRows, heads.end - rows.first_head);
  rows.token = params.cu_seqlens_q[rows.sequence];
  if (params.cu_seqlens_q[rows.sequence + 1] - rows.token != 1) rows.num_rows = 0;
  return rows;
}

// What a block attends to: parts [first_part, ...) of the sequence, which are keys [begin, end).
struct DecodeShare {
  int first_part;
  int begin;
  int end;
  int num_blocks;  // that have parts of these rows
};

// As equal as whole parts are, and the same keys' parts side by side.
__device__ __forceinline__ DecodeShare ShareOf(const DecodeRows& rows, const ContextCut& cut,
                                               int context_len) {
  const int index = static_cast<int>(blockIdx.y);
  DecodeShare share = {0, 0, 0, min(static_cast<int>(gridDim.y), cut.num_parts)};
  if (rows.num_rows <= 0 || index >= share.num_blocks) return share;
  share.first_part = cut.num_parts * index / share.num_blocks;
  const int end_part = cut.num_parts * (index + 1) / share.num_blocks;
  share.begin = share.first_part * cut.part_keys;
  share.end = min(context_len, end_part * cut.part_keys);
  return share;
}

// Calls on_row(row, max, sum) once for each row, and on_element(row, column, value, sum) for the
// elements that this lane holds, those from head_dim on, which are zero, included.
template <typename S, typename OnRow, typename OnElement>
__device__ __forceinline__ void ForEachResult(const DecodeState<S>& state, int num_rows,
                                              OnRow&& on_row, OnElement&& on_element) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int r = 0; r < S::kRowTiles; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = 16 * r + 8 * h + lane / 4;
      if (row >= num_rows) continue;
      if (warp == 0 && lane % 4 == 0) on_row(row, state.max[r][h], state.sum[r][h]);
#pragma unroll
      for (int n = 0; n < S::kColumns / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = warp * S::kColumns + 8 * n + lane % 4 * 2 + e;
          on_element(row, column, state.out[r][n][2 * h + e], state.sum[r][h]);
        }
      }
    }
  }
}

// The whole result where the context is one part, else what MergeParts needs.
template <typename S>
__device__ __forceinline__ void WriteState(const AttentionParams& params,
                                           const AttentionParts& parts, const DecodeRows& rows,
                                           int part, int num_parts, const DecodeState<S>& state) {
  using T = typename S::T;
  if (num_parts == 1) {
    T* out = static_cast<T*>(params.out) + rows.token * params.out_stride +
             int64_t{rows.first_head} * params.head_dim;
    ForEachResult<S>(
        state, rows.num_rows, [](int, float, float) {},
        [&](int row, int column, float value, float sum) {
          if (column < params.head_dim) {
            out[row * params.head_dim + column] = FromFloat<T>(value / sum);
          }
        });
    return;
  }
  const int64_t first =
      (int64_t{rows.sequence} * params.num_heads + rows.first_head) * parts.max_parts + part;
  ForEachResult<S>(
      state, rows.num_rows,
      [&](int row, float max, float sum) {
        parts.stats[first + int64_t{row} * parts.max_parts] = make_float2(max, sum);
      },
      [&](int row, int column, float value, float) {
        parts.out[(first + int64_t{row} * parts.max_parts) * S::kWidth + column] = value;
      });
}

// Writes to shared memory where the keys of a share's first tiles lie.
template <typename S>
__device__ __forceinline__ void FindFirstKeys(const AttentionParams& params, const DecodeRows& rows,
                                              const DecodeShare& share,
                                              const DecodeShared<S>& shared) {
  if (threadIdx.x >= S::kTileKeys) return;
  const int32_t* block_table =
      params.block_tables + int64_t{rows.sequence} * params.block_table_stride;
#pragma unroll
  for (int t = 0; t < S::kStages; ++t) {
    const int key = share.begin + t * S::kTileKeys + static_cast<int>(threadIdx.x);
    shared.Where(t)[threadIdx.x] =
        key < share.end ? CacheRow(params, block_table, rows.kv_head, key) : int64_t{-1};
  }
}

// Piece by piece; each part is written when its last key is done, and the next one's tiles are on
// their way by then.
template <typename S>
__device__ __forceinline__ void AttendShare(const AttentionParams& params,
                                            const AttentionParts& parts, const DecodeRows& rows,
                                            const ContextCut& cut, const DecodeShare& share,
                                            const DecodeShared<S>& shared) {
  const int32_t* block_table =
      params.block_tables + int64_t{rows.sequence} * params.block_table_stride;
  const int num_tiles = (share.end - share.begin + S::kTileKeys - 1) / S::kTileKeys;
  const int part_tiles = cut.part_keys / S::kTileKeys;
  constexpr int kPieceTiles = S::kPieceKeys / S::kTileKeys;
  const float scale = params.scale * 1.44269504f;  // log2(e)
  const bool finds = threadIdx.x < S::kTileKeys;
  for (int t = 0; t < S::kStages - 1; ++t) {
    if (t < num_tiles) CopyTile<S>(params, t, shared);
    CommitCopies();
  }
  DecodeState<S> piece, total;
  piece.Clear();
  total.Clear();
  int part = share.first_part, part_end = part_tiles;
  for (int t = 0, stage = 0; t < num_tiles; ++t, stage = (stage + 1) % S::kStages) {
    WaitCopies<S::kStages - 2>();
    __syncthreads();  // tile t is there, and tile t - 1 has been read
    const int ahead = t + S::kStages - 1;
    if (ahead < num_tiles) CopyTile<S>(params, (stage + S::kStages - 1) % S::kStages, shared);
    CommitCopies();
    const int next = share.begin + (ahead + 1) * S::kTileKeys + static_cast<int>(threadIdx.x);
    int64_t where = -1;  // arrives while tile t is multiplied
    if (finds && next < share.end) where = CacheRow(params, block_table, rows.kv_head, next);
    const int num_keys = min(S::kTileKeys, share.end - share.begin - t * S::kTileKeys);
    if (params.cos_sin != nullptr) {
      RotateKeys<S>(params, share.begin + t * S::kTileKeys, num_keys, stage, shared);
      __syncthreads();
    }
    AttendTile<S>(stage, num_keys, scale, params.cos_sin != nullptr, shared, &piece);
    if (finds) shared.Where(stage)[threadIdx.x] = where;
    const bool ends_part = t + 1 == part_end || t + 1 == num_tiles;
    if (!ends_part && (t + 1) % kPieceTiles != 0) continue;
    total.Add(piece);
    piece.Clear();
    if (!ends_part) continue;
    WriteState<S>(params, parts, rows, part++, cut.num_parts, total);
    total.Clear();
    part_end += part_tiles;
  }
}

template <typename T>
__device__ __forceinline__ void WriteZeros(const AttentionParams& params, const DecodeRows& rows) {
  T* out = static_cast<T*>(params.out) + rows.token * params.out_stride +
           int64_t{rows.first_head} * params.head_dim;
  for (int i = threadIdx.x; i < rows.num_rows * params.head_dim; i += kDecodeThreads) {
    out[i] = FromFloat<T>(0.0f);
  }
}

// Grid: (sequences x KV heads x row_blocks, splits), splits slowest, since those that find nothing
// to do are the last of their sequence. Block: kDecodeThreads. Shared memory, 16-bit T, one row
// tile: 56 KB at width 64 (4 blocks on an H200's multiprocessor), 107 KB at 128 and 109 KB at 256
// (2 blocks); registers for one, two and five row tiles at width 128: 125, 187, 252 (compute
// capability 8.0: 255).
// Bytes: 2 context num_kv_heads head_dim sizeof(T), which should bound it, and for each part of a
// row 8 width + 16, written and read. In flight: 32 KiB or more for each block; 4 TB/s over 132
// multiprocessors at a latency of 700 ns ask for 21 KB each.
// What says which keys are whose is read before the wait, so that the first of them are asked for
// as soon as the kernel in front has ended.
// Predicted, not measured: 64 sequences of 8,192 tokens, 32 query heads, head_dim 128, bfloat16, at
// 4.3 TB/s. 1 KV head: 62.4 us of bytes in one round of 256 blocks, 2 to start and fill, 2 until
// the slowest block has ended, 1.5 for its fences and 3 to merge 32 rows of 8 parts (133 KB by one
// block; other sequences' merges hide): 71 us (88%). 8 KV heads: 499 and 560 us (89%), 32: 1,997
// and 2,200 (91%), where 1,536 and 2,048 blocks end within 2% of each other.
template <typename S>
__global__ __launch_bounds__(kDecodeThreads,
                             kBlocksPerSm) void AttendDecode(const AttentionParams params,
                                                             const DecodePlan plan) {
  LetNextKernelStart();
  const DecodeRows rows = RowsOf<S>(params, plan.row_blocks);
  const int context_len = params.context_lens[rows.sequence];
  const ContextCut cut = CutContext(context_len, S::kPieceKeys, plan.parts.min_spans);
  const DecodeShare share = ShareOf(rows, cut, context_len);
  const DecodeShared<S> shared;
  FindFirstKeys<S>(params, rows, share, shared);
  WaitForKernelBefore();
  if (rows.num_rows <= 0) return;
  if (cut.num_parts == 0 && blockIdx.y == 0) WriteZeros<typename S::T>(params, rows);
  if (share.begin == share.end) return;
  __syncthreads();  // the first keys are found
  CopyQuery<S>(params, rows.token, rows.first_head, rows.num_rows, shared);
  if (DecodeShared<S>::kHasRest && params.cos_sin != nullptr) {
    for (int i = threadIdx.x; i < S::kTile; i += kDecodeThreads) {
      shared.rest[i] = FromFloat<typename S::T>(0.0f);
    }
  }
  AttendShare<S>(params, plan.parts, rows, cut, share, shared);
  if (cut.num_parts == 1 || !IsLast(plan.parts.num_done + blockIdx.x, share.num_blocks)) return;
  MergeParts<S>(params, plan.parts, cut, rows);
}

// How many blocks share the context of each of `units`, of which `places` can run at once. One
// round of blocks is best, as memory is idle while rounds change; if that cannot be, many, so that
// few are left alone in the last.
int64_t NumSplits(int64_t units, int64_t places, int64_t max_parts) {
  const int64_t splits = units <= places ? places / units : CeilDiv(4 * places, units);
  return std::clamp<int64_t>(splits, 1, std::max<int64_t>(1, max_parts));
}

template <typename S>
void LaunchDecode(CudaContext& context, const AttentionParams& params) {
  DecodePlan plan = {};
  plan.row_blocks =
      static_cast<int>(CeilDiv(std::min(params.queries_per_kv_head, params.num_heads), S::kRows));
  const int64_t units = int64_t{params.num_sequences} * params.num_kv_heads * plan.row_blocks;
  const int64_t places = int64_t{kBlocksPerSm} * context.properties().num_sms;
  // Whole spans where they give each multiprocessor about three blocks, pieces where they do not.
  plan.parts.min_spans = static_cast<int>(CeilDiv(3 * places / 2, units));
  const int64_t max_parts = MaxParts(params.max_context_len, S::kPieceKeys, plan.parts.min_spans);
  plan.parts.max_parts = static_cast<int>(max_parts);
  if (max_parts > 1) {
    const int64_t num_parts = int64_t{params.num_sequences} * params.num_heads * max_parts;
    const int64_t out_bytes = num_parts * S::kWidth * int64_t{sizeof(float)};
    void* scratch = context.Scratch(out_bytes + num_parts * int64_t{sizeof(float2)});
    plan.parts.out = static_cast<float*>(scratch);
    plan.parts.stats = reinterpret_cast<float2*>(static_cast<char*>(scratch) + out_bytes);
  }
  const int64_t splits = NumSplits(units, places, max_parts);
  if (splits > 1) plan.parts.num_done = context.Counters(units);
  LaunchEarly(
      context, AttendDecode<S>, dim3(static_cast<unsigned>(units), static_cast<unsigned>(splits)),
      dim3(kDecodeThreads), DecodeShared<S>::Bytes(params.cos_sin != nullptr), params, plan);
}

// As many row tiles as a KV head's queries fill, up to what the registers hold.
template <typename T, int kWidth>
void LaunchWidth(CudaContext& context, const AttentionParams& params) {
  const int rows = std::min(params.queries_per_kv_head, params.num_heads);
  if constexpr (sizeof(T) == 2 && kWidth <= 128) {
    if (rows > 32) return LaunchDecode<DecodeShape<T, kWidth, 5>>(context, params);
  }
  if constexpr (sizeof(T) == 2 && kWidth <= 256) {
    if (rows > 16) return LaunchDecode<DecodeShape<T, kWidth, 2>>(context, params);
  }
  LaunchDecode<DecodeShape<T, kWidth, 1>>(context, params);
}

}  // namespace

void DecodeAttention(CudaContext& context, const AttentionParams& params) {
  CHECK_LE(params.head_dim, 512);
  DispatchType(params.dtype, [&]<typename T>(T*) {
    if (params.head_dim <= 64) return LaunchWidth<T, 64>(context, params);
    if (params.head_dim <= 128) return LaunchWidth<T, 128>(context, params);
    if (params.head_dim <= 256) return LaunchWidth<T, 256>(context, params);
    LaunchWidth<T, 512>(context, params);
  });
}

}  // namespace polystrate::cuda
