// Attention of sequences with many queries on Hopper's own instructions, in the form of
// FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608), over the paged cache.
//
// A block takes one tile of 128 query rows (query_tile.cuh) and goes through its keys 128 at a
// time. One warpgroup loads, two compute, 64 rows each:
//   scores of the next step = Q K^T is started, then out += P V of this one; while that runs, the
//   next step's softmax; then out = out * rescale, and P goes from registers into the next product.
// Softmax so runs beside the warpgroup's own P V and the other warpgroup's products. Keys and
// values have two stages each in shared memory, and barriers tell whose turn a stage is.
//
// Keys are copied by cp.async and not by the bulk copy engine (TMA): that would need a tensor map
// for each layer, made by a function of the driver, blocks of a multiple of 8 tokens, and something
// else to write zeros behind the last key. 128 copies of a warp for a step of 2,048 cycles of
// products are a small part of what the multiprocessor can issue.
//
// What to expect: a step of both warpgroups is 2,048 cycles of products at best; beside them go, on
// each of the four schedulers, some 1,000 instructions of softmax and 250 of copying, and 1,060
// cycles of exponentials. 60 to 65% of what a large matrix product does.
//
// It has run on the tests' emulator and on no GPU (kernels/cuda/context.cc, docs/gpu/README.md).
//
// A row's result depends on its query and its keys alone: steps begin at multiples of 128 from key
// 0, and what lies in a step beyond a row's own position adds exact zeros.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_softmax.cuh"
#include "kernels/cuda/warpgroup_prefill.cuh"

namespace polystrate::cuda {
namespace warpgroup_prefill {
namespace {

using Scores = float[kKeys / 8][4];
// Softmax weights as the left side of products with 16 keys each.
using Weights = uint32_t[kKeys / 16][4];

// What a lane holds of its warp's 16 rows: parts of two, `half` 0 and 1.
template <int kHeadDim>
struct LaneRows {
  float out[kHeadDim / 8][4] = {};
  float max[2] = {-INFINITY, -INFINITY};  // of the scores, times scale log2(e)
  float sum[2] = {0.0f, 0.0f};            // of this lane's part
  int last[2];                            // key that the row sees
};

// The tile's row of which this lane has a part.
__device__ __forceinline__ int RowOf(int half) {
  return (Warp() - kGroupThreads / 32) * 16 + half * 8 + Lane() / 4;
}

// How many steps hold keys that a row of this warpgroup sees.
__device__ __forceinline__ int NumOwnSteps(const QueryTile& tile, int group) {
  const int first = group * kGroupRows;
  if (first >= tile.num_rows || tile.key_end <= 0) return 0;
  const int last = min(first + kGroupRows, tile.num_rows) - 1;
  return min(tile.Position(last), tile.key_end - 1) / kKeys + 1;
}

// Starts scores = Q K^T.
template <typename T, int kHeadDim>
__device__ __forceinline__ void StartScores(uint64_t query, uint32_t keys, Scores& scores) {
  using S = Shape<kHeadDim>;
  const uint64_t key = S::Step::AlongColumns(keys, 0);
#pragma unroll
  for (int k = 0; k < kHeadDim; k += 16) {
    MultiplyShared<T>(scores, query + S::Query::AddColumns(k), key + S::Step::AddColumns(k),
                      /*add=*/k > 0);
  }
  CommitProducts();
}

// Starts out += P V.
template <typename T, int kHeadDim>
__device__ __forceinline__ void StartValues(const Weights& weights, uint32_t values,
                                            LaneRows<kHeadDim>& rows) {
  using Step = typename Shape<kHeadDim>::Step;
  const uint64_t value = Step::AlongRows(values);
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    MultiplyRegisters<T>(rows.out, weights[k], value + Step::AddRows(16 * k));
  }
  CommitProducts();
}

// This warp has read a stage to its end.
__device__ __forceinline__ void Release(uint64_t* empty) {
  if (Lane() == 0) Arrive(empty);
}

// Scores of the step that begins at key `begin` become weights; rescale[half] is what has been
// summed so far must be multiplied by.
template <int kHeadDim>
__device__ __forceinline__ void Weigh(int begin, int mask_begin, float scale_log2, Scores& scores,
                                      LaneRows<kHeadDim>& rows, float (&rescale)[2]) {
  if (begin + kKeys > mask_begin) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (begin + n * 8 + Member(i) > rows.last[i / 2]) scores[n][i] = -INFINITY;
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    rescale[half] = WeighRow(half, scale_log2, rows.max[half], rows.sum[half], scores);
  }
}

// Waits for out += P V, then out *= rescale.
//
// The compiler is free to wait first and weigh afterwards, and does, so that nothing would overlap.
// So the wait is behind a branch on what all weights have gone into, their sums. (No sum is
// negative; one that is NaN is in an output that is.)
template <int kHeadDim>
__device__ __forceinline__ void WaitAndRescale(const float (&rescale)[2],
                                               LaneRows<kHeadDim>& rows) {
  // Maxima seldom change once some hundred keys have been seen.
  const bool same =
      rescale[0] == 1.0f && rescale[1] == 1.0f && rows.sum[0] >= 0.0f && rows.sum[1] >= 0.0f;
  if (__all_sync(kWholeWarp, same)) {
    WaitProducts<0>();
    Settle(rows.out);
    return;
  }
  WaitProducts<0>();
  Settle(rows.out);
#pragma unroll
  for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) rows.out[n][i] *= rescale[i / 2];
  }
}

// The steps that this warpgroup's rows see, of which there is one at least.
template <typename T, int kHeadDim>
__device__ __forceinline__ void ComputeSteps(int num_steps, int group, float scale_log2,
                                             Shared<kHeadDim>& shared, const Tiles<kHeadDim>& tiles,
                                             LaneRows<kHeadDim>& rows) {
  using Step = typename Shape<kHeadDim>::Step;
  const int first_row = group * kGroupRows;
  const uint64_t query =
      Shape<kHeadDim>::Query::AlongColumns(SharedAddress(tiles.query), first_row);
  const uint32_t keys = SharedAddress(tiles.keys), values = SharedAddress(tiles.values);
  const int mask_begin = shared.tile.Position(first_row) + 1;
  Scores scores;
  Weights weights;
  float rescale[2];
  AwaitPhase(&shared.keys.full[0], 0);
  StartProducts();
  StartScores<T, kHeadDim>(query, keys, scores);
  WaitProducts<0>();
  Settle(scores);
  Release(&shared.keys.empty[0]);
  Weigh<kHeadDim>(0, mask_begin, scale_log2, scores, rows, rescale);
  PackWeights<T>(scores, weights);
#pragma unroll 1
  for (int step = 0; step + 1 < num_steps; ++step) {
    const int stage = step % kStages, next = (step + 1) % kStages;
    AwaitPhase(&shared.keys.full[next], (step + 1) / kStages % 2);
    StartProducts();
    StartScores<T, kHeadDim>(query, keys + next * Step::kBytes, scores);
    AwaitPhase(&shared.values.full[stage], step / kStages % 2);
    StartProducts();
    StartValues<T, kHeadDim>(weights, values + stage * Step::kBytes, rows);
    WaitProducts<1>();
    Settle(scores);
    Release(&shared.keys.empty[next]);
    Weigh<kHeadDim>((step + 1) * kKeys, mask_begin, scale_log2, scores, rows, rescale);
    WaitAndRescale<kHeadDim>(rescale, rows);
    Settle(weights);
    Release(&shared.values.empty[stage]);
    PackWeights<T>(scores, weights);
  }
  const int step = num_steps - 1, stage = step % kStages;
  AwaitPhase(&shared.values.full[stage], step / kStages % 2);
  StartProducts();
  StartValues<T, kHeadDim>(weights, values + stage * Step::kBytes, rows);
  WaitProducts<0>();
  Settle(rows.out);
  Settle(weights);
  Release(&shared.values.empty[stage]);
}

// Steps that only the other warpgroup's rows see.
template <int kHeadDim>
__device__ __forceinline__ void PassSteps(int begin, int end, Shared<kHeadDim>& shared) {
  for (int step = begin; step < end; ++step) {
    for (Pipe* pipe : {&shared.keys, &shared.values}) {
      AwaitPhase(&pipe->full[step % kStages], step / kStages % 2);
      Release(&pipe->empty[step % kStages]);
    }
  }
}

// Gives NaN to the outputs that a hole (HideHoles) belongs to.
template <int kHeadDim>
__device__ __forceinline__ void MarkHoles(const int* first_hole, LaneRows<kHeadDim>& rows) {
#pragma unroll
  for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first_hole[n * 8 + Member(i)] <= rows.last[i / 2]) rows.out[n][i] = NAN;
    }
  }
}

// A sequence without keys has zeros.
template <typename T, int kHeadDim>
__device__ __forceinline__ void WriteRows(const AttentionParams& params, const QueryTile& tile,
                                          const LaneRows<kHeadDim>& rows) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(kWholeWarp, sum, 1);
    sum += __shfl_xor_sync(kWholeWarp, sum, 2);
    if (RowOf(half) >= tile.num_rows) continue;
    T* to =
        static_cast<T*>(params.out) + tile.Offset(RowOf(half), params.out_stride, params.head_dim);
    WriteRow<T>(params, to, half, tile.key_end > 0 ? 1.0f / sum : 0.0f, rows.out);
  }
}

// What a computing warpgroup does.
template <typename T, int kHeadDim>
__device__ __forceinline__ void Attend(const AttentionParams& params, float scale_log2,
                                       Shared<kHeadDim>& shared, const Tiles<kHeadDim>& tiles) {
  const int group = Warp() / (kGroupThreads / 32) - 1;
  const QueryTile tile = shared.tile;
  CopyQuery<T, kHeadDim>(params, tile, group, tiles.query);
  Arrive(&shared.query_full[group]);
  AwaitPhase(&shared.query_full[group], 0);
  LaneRows<kHeadDim> rows;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    rows.last[half] = tile.Position(min(RowOf(half), tile.num_rows - 1));
  }
  const int num_own = NumOwnSteps(tile, group);
  if (num_own > 0) ComputeSteps<T, kHeadDim>(num_own, group, scale_log2, shared, tiles, rows);
  PassSteps(num_own, (tile.key_end + kKeys - 1) / kKeys, shared);
  MarkHoles<kHeadDim>(shared.first_hole, rows);
  WriteRows<T, kHeadDim>(params, tile, rows);
}

// Grid: tile places (query_tile.cuh) x KV heads. Block: three warpgroups, one to a multiprocessor,
// whose registers they share unevenly. Shared memory: a tile of Q, two steps of K, two of V.
// Bytes: K and V once per tile of 128 rows, from the second-level cache mostly, as the tiles of a
// sequence run together; Q and out once. Bound by the tensor cores: 4 * head_dim operations per
// row and key.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    WarpgroupPrefillKernel(const AttentionParams params, float scale_log2) {
  __shared__ Shared<kHeadDim> shared;
  if (Warp() == 0) {
    const QueryTile found =
        TileAt(params, static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), kRows);
    if (Lane() == 0) {
      shared.tile = found;
      InitBarriers(shared);
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < kHeadDim; i += kThreads) {
    shared.first_hole[i] = INT_MAX;
  }
  __syncthreads();
  if (shared.tile.num_rows == 0) return;
  const Tiles<kHeadDim> tiles;
  if (threadIdx.x < kGroupThreads) {
    GiveUpRegisters<56>();
    LoadSteps<T, kHeadDim>(params, shared, tiles);
  } else {
    TakeRegisters<224>();
    Attend<T, kHeadDim>(params, scale_log2, shared, tiles);
  }
}

template <typename T, int kHeadDim>
void LaunchKernel(const CudaContext& context, const AttentionParams& params) {
  const dim3 grid(NumTilePlaces(params, kRows), params.num_kv_heads);
  Launch(context, WarpgroupPrefillKernel<T, kHeadDim>, grid, dim3(kThreads),
         Shape<kHeadDim>::kSharedBytes, params, params.scale * 1.44269504f);
}

template <typename T>
void LaunchForHeadDim(const CudaContext& context, const AttentionParams& params) {
  if (params.head_dim <= 64) return LaunchKernel<T, 64>(context, params);
  return LaunchKernel<T, 128>(context, params);
}

}  // namespace
}  // namespace warpgroup_prefill

bool WarpgroupPrefillAttention(CudaContext& context, const AttentionParams& params) {
  if (!context.warpgroups() || !params.cache_aligned || params.head_dim > 128) return false;
  if (params.cos_sin != nullptr) return false;  // what rotates keys would have to fence them too
  if (params.dtype == DType::kBFloat16) {
    warpgroup_prefill::LaunchForHeadDim<__nv_bfloat16>(context, params);
    return true;
  }
  if (params.dtype == DType::kFloat16) {
    warpgroup_prefill::LaunchForHeadDim<__half>(context, params);
    return true;
  }
  return false;
}

}  // namespace polystrate::cuda
