// Attention of sequences with many queries, in the form of FlashAttention-2 (Dao 2023,
// arXiv:2307.08691) on tensor cores, over the paged cache.
//
// A block takes one tile of query rows (query_tile.cuh) and goes through its keys 64 at a time:
//   scores = Q K^T; softmax of what the rows have seen so far; out = out * rescale + P V.
// Each warp owns 32 rows (16 from head_dim 129 on: the output fills its registers), so rows need no
// other warp, and P goes from the registers of one product into those of the next. K's next tile is
// copied while P V is computed and V's while Q K^T is: two buffers are enough, and two blocks per
// multiprocessor take turns at softmax and tensor cores. Rows of shared memory are 16 bytes longer
// than they need be, which spreads ldmatrix and the copies over all banks.
//
// What to expect: mma.sync reaches some 60% of a Hopper tensor core's rate, and this form with it
// about half of what a large matrix product does (on Ampere, 60 to 70%). More needs Hopper's own
// instructions: warpgroup_prefill_attention.cu.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefill_tiles.cuh"
#include "kernels/cuda/row_softmax.cuh"

namespace polystrate::cuda {
namespace prefill {
namespace {

// What a lane holds of its warp's rows. Of each 16-row tile it has parts of two rows, `half` 0 and
// 1, that lie 8 apart.
template <int kHeadDim>
struct WarpRows {
  float out[Shape<kHeadDim>::kRowTiles][kHeadDim / 8][4] = {};
  float max[Shape<kHeadDim>::kRowTiles][2];       // of the scores, times scale log2(e)
  float sum[Shape<kHeadDim>::kRowTiles][2] = {};  // of this lane's part
  __device__ WarpRows() {
    for (auto& pair : max) pair[0] = pair[1] = -INFINITY;
  }
};

// The tile's row of which this lane has a part, and the last key that it sees.
template <int kHeadDim>
__device__ __forceinline__ int RowOf(int m, int half) {
  return Warp() * Shape<kHeadDim>::kWarpRows + m * 16 + half * 8 + Lane() / 4;
}
template <int kHeadDim>
__device__ __forceinline__ int PositionOf(const QueryTile& tile, int m, int half) {
  return tile.Position(min(RowOf<kHeadDim>(m, half), tile.num_rows - 1));
}

template <int kHeadDim>
using Scores = float[Shape<kHeadDim>::kRowTiles][kKeys / 8][4];
// Softmax weights as the left side of a product with 16 keys each.
template <int kHeadDim>
using Weights = uint32_t[Shape<kHeadDim>::kRowTiles][kKeys / 16][4];

// scores = Q K^T of the warp's rows and the step's keys.
template <typename T, int kHeadDim>
__device__ __forceinline__ void MultiplyKeys(const T* query, const T* key,
                                             Scores<kHeadDim>& scores) {
  using S = Shape<kHeadDim>;
  const int lane = Lane();
  const T* a_row = query + (Warp() * S::kWarpRows + lane % 16) * S::kPitch + lane / 16 * 8;
  const T* b_row = key + (lane % 8 + lane / 16 * 8) * S::kPitch + lane / 8 % 2 * 8;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[m][n][i] = 0.0f;
    }
  }
#pragma unroll
  for (int k = 0; k < kHeadDim; k += 16) {
    uint32_t a[S::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) LoadMatrix4(a[m], a_row + m * 16 * S::kPitch + k);
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      uint32_t b[4];
      LoadMatrix4(b, b_row + n * 8 * S::kPitch + k);
      const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        Mma16816<T>(scores[m][n], a[m], b0);
        Mma16816<T>(scores[m][n + 1], a[m], b1);
      }
    }
  }
}

// Hides the keys behind each row's own.
template <int kHeadDim>
__device__ __forceinline__ void MaskScores(const QueryTile& tile, int begin,
                                           Scores<kHeadDim>& scores) {
#pragma unroll
  for (int m = 0; m < Shape<kHeadDim>::kRowTiles; ++m) {
    const int last[2] = {PositionOf<kHeadDim>(tile, m, 0), PositionOf<kHeadDim>(tile, m, 1)};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (begin + n * 8 + Member(i) > last[i / 2]) scores[m][n][i] = -INFINITY;
      }
    }
  }
}

// Turns the scores into weights and brings the output to the new maxima.
template <typename T, int kHeadDim>
__device__ __forceinline__ void UpdateSoftmax(float scale_log2, Scores<kHeadDim>& scores,
                                              WarpRows<kHeadDim>& rows,
                                              Weights<kHeadDim>& weights) {
#pragma unroll
  for (int m = 0; m < Shape<kHeadDim>::kRowTiles; ++m) {
    float rescale[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rescale[half] = WeighRow(half, scale_log2, rows.max[m][half], rows.sum[m][half], scores[m]);
    }
    PackWeights<T>(scores[m], weights[m]);
    // Maxima seldom change once some hundred keys have been seen.
    if (!__any_sync(kWholeWarp, rescale[0] != 1.0f || rescale[1] != 1.0f)) continue;
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) rows.out[m][n][i] *= rescale[i / 2];
    }
  }
}

// out += P V.
template <typename T, int kHeadDim>
__device__ __forceinline__ void MultiplyValues(const T* value, const Weights<kHeadDim>& weights,
                                               WarpRows<kHeadDim>& rows) {
  using S = Shape<kHeadDim>;
  const T* b_row = value + Lane() % 16 * S::kPitch + Lane() / 16 * 8;
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; n += 2) {
      uint32_t b[4];
      LoadMatrix4Transposed(b, b_row + k * 16 * S::kPitch + n * 8);
      const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        Mma16816<T>(rows.out[m][n], weights[m][k], b0);
        Mma16816<T>(rows.out[m][n + 1], weights[m][k], b1);
      }
    }
  }
}

// Gives NaN to the outputs that a hole (FillHoles) belongs to.
template <int kHeadDim>
__device__ __forceinline__ void MarkHoles(const QueryTile& tile, const int* first_hole,
                                          WarpRows<kHeadDim>& rows) {
#pragma unroll
  for (int m = 0; m < Shape<kHeadDim>::kRowTiles; ++m) {
    const int last[2] = {PositionOf<kHeadDim>(tile, m, 0), PositionOf<kHeadDim>(tile, m, 1)};
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (first_hole[n * 8 + Member(i)] <= last[i / 2]) rows.out[m][n][i] = NAN;
      }
    }
  }
}

// A sequence without keys has zeros.
template <typename T, int kHeadDim>
__device__ __forceinline__ void WriteRows(const AttentionParams& params, const QueryTile& tile,
                                          const WarpRows<kHeadDim>& rows) {
  using S = Shape<kHeadDim>;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = rows.sum[m][half];
      sum += __shfl_xor_sync(kWholeWarp, sum, 1);
      sum += __shfl_xor_sync(kWholeWarp, sum, 2);
      const int row = RowOf<kHeadDim>(m, half);
      if (row >= tile.num_rows) continue;
      T* to = static_cast<T*>(params.out) + tile.Offset(row, params.out_stride, params.head_dim);
      WriteRow<T>(params, to, half, tile.key_end > 0 ? 1.0f / sum : 0.0f, rows.out[m]);
    }
  }
}

// Grid: tile places (query_tile.cuh) x KV heads. Block: 4 warps. Shared memory: a tile of Q, one of
// K and one of V, and where the rows of two steps lie.
// Bytes: K and V once per tile of 128 rows, from the second-level cache mostly, as the tiles of a
// sequence run together; Q and out once. Bound by the tensor cores: 4 * head_dim operations per
// row and key. Three blocks of head_dim 64 share a multiprocessor, as softmax weighs more there;
// for that, a sum or two (six words for sm_80) leave their registers once in a step.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, kHeadDim <= 64 ? 3 : 2)
    PrefillKernel(const AttentionParams params, float scale_log2) {
  using S = Shape<kHeadDim>;
  __shared__ QueryTile tile;
  __shared__ int holes;  // whether a value that some row must not see is not finite
  __shared__ int first_hole[kHeadDim];
  __shared__ int warp_end[kWarps];  // no row of a warp's sees this key or one behind it
  if (Warp() == 0) {
    const QueryTile found =
        TileAt(params, static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), S::kRows);
    if (Lane() == 0) {
      tile = found;
      holes = 0;
    }
  }
  __syncthreads();
  if (tile.num_rows == 0) return;
  const SharedTiles<T> shared = DivideShared<T, kHeadDim>();
  const T* key = static_cast<const T*>(params.key);
  const T* value = static_cast<const T*>(params.value);
  CopyQuery<T, kHeadDim>(params, tile, shared.query);
  FindKeys<T>(params, tile, 0, shared.rows);
  if (Lane() == 0) {
    const int end = min((Warp() + 1) * S::kWarpRows, tile.num_rows);
    warp_end[Warp()] = end > Warp() * S::kWarpRows ? tile.Position(end - 1) + 1 : 0;
  }
  __syncthreads();
  CopyStep<T, kHeadDim>(key, shared.rows, tile.key_end, params.head_dim, shared.key);

  WarpRows<kHeadDim> rows;
  for (int begin = 0; begin < tile.key_end; begin += kKeys) {
    int64_t* here = shared.rows + begin / kKeys % 2 * kKeys;
    int64_t* next = shared.rows + kKeys - begin / kKeys % 2 * kKeys;
    const int count = tile.key_end - begin;
    const bool masked = begin + kKeys > tile.mask_begin;
    WaitCopies<0>();
    __syncthreads();  // K is here; V's last step is done with
    if (params.cos_sin != nullptr) {
      RotateKeys(params, begin, min(count, kKeys), S::kPitch, shared.key);
      __syncthreads();
    }
    CopyStep<T, kHeadDim>(value, here, count, params.head_dim, shared.value);
    FindKeys<T>(params, tile, begin + kKeys, next);
    Scores<kHeadDim> scores;
    MultiplyKeys<T, kHeadDim>(shared.query, shared.key, scores);
    WaitCopies<0>();
    if (masked && AnyNonFinite<T, kHeadDim>(shared.value)) holes = 1;
    __syncthreads();  // V is here; K's step is done with
    if (count > kKeys) {
      CopyStep<T, kHeadDim>(key, next, count - kKeys, params.head_dim, shared.key);
    }
    if (holes != 0) {
      FillHoles<T, kHeadDim>(begin, shared.value, first_hole);
      __syncthreads();
    }
    if (begin >= warp_end[Warp()]) continue;
    if (masked) MaskScores<kHeadDim>(tile, begin, scores);
    Weights<kHeadDim> weights;
    UpdateSoftmax<T, kHeadDim>(scale_log2, scores, rows, weights);
    MultiplyValues<T, kHeadDim>(shared.value, weights, rows);
    if (holes != 0) MarkHoles<kHeadDim>(tile, first_hole, rows);
  }
  WriteRows<T, kHeadDim>(params, tile, rows);
}

template <typename T, int kHeadDim>
bool LaunchPrefill(const CudaContext& context, const AttentionParams& params) {
  using S = Shape<kHeadDim>;
  if (S::kSharedBytes > context.properties().max_shared_bytes) return false;
  const dim3 grid(NumTilePlaces(params, S::kRows), params.num_kv_heads);
  Launch(context, PrefillKernel<T, kHeadDim>, grid, dim3(kThreads), S::kSharedBytes, params,
         params.scale * 1.44269504f);
  return true;
}

// False: the shape is not one for the tensor cores.
template <typename T>
bool LaunchForHeadDim(const CudaContext& context, const AttentionParams& params) {
  if (!params.cache_aligned) return false;
  if (params.head_dim <= 64) return LaunchPrefill<T, 64>(context, params);
  if (params.head_dim <= 96) return LaunchPrefill<T, 96>(context, params);
  if (params.head_dim <= 128) return LaunchPrefill<T, 128>(context, params);
  if (params.head_dim <= 256) return LaunchPrefill<T, 256>(context, params);
  return false;
}

}  // namespace
}  // namespace prefill

void PrefillAttention(CudaContext& context, const AttentionParams& params) {
  if (WarpgroupPrefillAttention(context, params)) return;
  bool launched = false;
  if (params.dtype == DType::kBFloat16)
    launched = prefill::LaunchForHeadDim<__nv_bfloat16>(context, params);
  if (params.dtype == DType::kFloat16)
    launched = prefill::LaunchForHeadDim<__half>(context, params);
  if (!launched) PlainPrefillAttention(context, params);
}

}  // namespace polystrate::cuda
