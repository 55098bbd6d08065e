// Attention of sequences with many queries where tensor cores do not serve: float32, and shapes
// that prefill_attention.cu does not know. Exact before fast.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/query_tile.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kWarpRows = 4;
constexpr int kRows = kWarps * kWarpRows;  // of a tile
constexpr int kKeys = 32;                  // of a step: one per lane
constexpr int kMaxHeadDim = 512;

struct SharedTiles {
  int64_t* places;  // [kKeys]: where the step's rows begin in the cache
  float* query;     // [kRows, head_dim], scaled
  float* keys;      // [kKeys, head_dim + 1], then the values
};

int64_t SharedBytes(int head_dim) {
  return kKeys * static_cast<int64_t>(sizeof(int64_t)) +
         (kRows * head_dim + kKeys * (head_dim + 1)) * static_cast<int64_t>(sizeof(float));
}

// What a warp knows of its rows: a lane has the columns lane, lane + 32, ... of each output.
template <int kColumns>
struct WarpRows {
  float out[kWarpRows][kColumns] = {};
  float max[kWarpRows];
  float sum[kWarpRows] = {};  // of this lane's keys
  int last[kWarpRows];        // position of the last key that is seen
  __device__ explicit WarpRows(const QueryTile& tile) {
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      max[r] = -INFINITY;
      last[r] = tile.Position(min(Warp() * kWarpRows + r, tile.num_rows - 1));
    }
  }
};

template <typename T>
__device__ void LoadQuery(const AttentionParams& params, const QueryTile& tile, float* to) {
  const T* query = static_cast<const T*>(params.query);
  for (int row = Warp(); row < tile.num_rows; row += kWarps) {
    const T* from = query + tile.Offset(row, params.query_stride, params.head_dim);
    for (int d = Lane(); d < params.head_dim; d += 32) {
      to[row * params.head_dim + d] = ToFloat(from[d]) * params.scale;
    }
  }
}

// Copies the first `count` rows of the step; keys of the positions from `begin` on are rotated if
// cos_sin is not null.
template <typename T>
__device__ void LoadStep(const AttentionParams& params, const void* cache, const float* cos_sin,
                         int begin, int count, const SharedTiles& shared) {
  const int half = params.rotary_dim / 2;
  for (int row = Warp(); row < count; row += kWarps) {
    const T* from = static_cast<const T*>(cache) + shared.places[row];
    float* to = shared.keys + row * (params.head_dim + 1);
    for (int d = Lane(); d < params.head_dim; d += 32) {
      if (cos_sin == nullptr || d >= 2 * half) {
        to[d] = ToFloat(from[d]);
        continue;
      }
      const int j = d < half ? d : d - half;
      const float a = ToFloat(from[j]), b = ToFloat(from[half + j]);
      const float* row_cos_sin = cos_sin + int64_t{begin + row} * params.rotary_dim;
      const float cosine = row_cos_sin[j], sine = row_cos_sin[half + j];
      to[d] = d < half ? a * cosine - b * sine : b * cosine + a * sine;
    }
  }
}

__device__ __forceinline__ float WarpMax(float x) {
  for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, i));
  return x;
}
__device__ __forceinline__ float WarpSum(float x) {
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(kWholeWarp, x, i);
  return x;
}

// The weight of this lane's key for each row, and what that means for what has been gathered.
template <int kColumns>
__device__ void WeighKeys(const AttentionParams& params, const SharedTiles& shared, int begin,
                          WarpRows<kColumns>& rows, float (&weights)[kWarpRows]) {
  const float* query = shared.query + Warp() * kWarpRows * params.head_dim;
  const float* key = shared.keys + Lane() * (params.head_dim + 1);
  float scores[kWarpRows] = {};
  for (int d = 0; d < params.head_dim; ++d) {
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) scores[r] += query[r * params.head_dim + d] * key[d];
  }
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const float score = begin + Lane() <= rows.last[r] ? scores[r] : -INFINITY;
    const float max = fmaxf(rows.max[r], WarpMax(score));
    const float base = max == -INFINITY ? 0.0f : max;
    const float rescale = expf(rows.max[r] - base);
    rows.max[r] = max;
    weights[r] = expf(score - base);
    rows.sum[r] = rows.sum[r] * rescale + weights[r];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) rows.out[r][i] *= rescale;
  }
}

// out += P V. A hidden key's weight is zero, its value anything, NaN too: it is left out.
template <int kColumns>
__device__ void AddValues(const AttentionParams& params, const SharedTiles& shared, int begin,
                          const float (&weights)[kWarpRows], WarpRows<kColumns>& rows) {
  const int count = min(kKeys, rows.last[kWarpRows - 1] + 1 - begin);
  for (int key = 0; key < count; ++key) {
    const float* value = shared.keys + key * (params.head_dim + 1);
    float weight[kWarpRows];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) weight[r] = __shfl_sync(kWholeWarp, weights[r], key);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int d = Lane() + i * 32;
      if (d >= params.head_dim) break;
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) {
        if (begin + key <= rows.last[r]) rows.out[r][i] += weight[r] * value[d];
      }
    }
  }
}

template <typename T, int kColumns>
__device__ void WriteRows(const AttentionParams& params, const QueryTile& tile,
                          const WarpRows<kColumns>& rows) {
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const float sum = WarpSum(rows.sum[r]);
    const int row = Warp() * kWarpRows + r;
    if (row >= tile.num_rows) continue;
    T* to = static_cast<T*>(params.out) + tile.Offset(row, params.out_stride, params.head_dim);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int d = Lane() + i * 32;
      if (d < params.head_dim) to[d] = FromFloat<T>(tile.key_end > 0 ? rows.out[r][i] / sum : 0.0f);
    }
  }
}

// Grid: tile places (query_tile.cuh) x KV heads. Block: 4 warps of 4 rows. Shared memory: a tile of
// Q, and one step's keys or values, in float32.
// Bytes: K and V once per tile of 16 rows. Bound by shared memory: 5 reads for 4 products.
template <typename T, int kColumns>
__global__ void __launch_bounds__(32 * kWarps, 2) PlainPrefillKernel(const AttentionParams params) {
  const QueryTile tile =
      TileAt(params, static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), kRows);
  if (tile.num_rows == 0) return;
  SharedTiles shared;
  shared.places = reinterpret_cast<int64_t*>(DynamicShared());
  shared.query = reinterpret_cast<float*>(shared.places + kKeys);
  shared.keys = shared.query + kRows * params.head_dim;
  LoadQuery<T>(params, tile, shared.query);
  WarpRows<kColumns> rows(tile);
  for (int begin = 0; begin < tile.key_end; begin += kKeys) {
    const int count = min(kKeys, tile.key_end - begin);
    if (static_cast<int>(threadIdx.x) < count) {
      const int position = begin + static_cast<int>(threadIdx.x);
      shared.places[threadIdx.x] = CacheRow(params, tile.block_table, tile.kv_head, position);
    }
    __syncthreads();
    LoadStep<T>(params, params.key, params.cos_sin, begin, count, shared);
    __syncthreads();
    float weights[kWarpRows];
    WeighKeys<kColumns>(params, shared, begin, rows, weights);
    __syncthreads();
    LoadStep<T>(params, params.value, nullptr, begin, count, shared);
    __syncthreads();
    AddValues<kColumns>(params, shared, begin, weights, rows);
    __syncthreads();
  }
  WriteRows<T, kColumns>(params, tile, rows);
}

template <typename T, int kColumns>
void LaunchPlain(const CudaContext& context, const AttentionParams& params) {
  const dim3 grid(NumTilePlaces(params, kRows), params.num_kv_heads);
  Launch(context, PlainPrefillKernel<T, kColumns>, grid, dim3(32 * kWarps),
         SharedBytes(params.head_dim), params);
}

}  // namespace

void PlainPrefillAttention(CudaContext& context, const AttentionParams& params) {
  CHECK_LE(params.head_dim, kMaxHeadDim);
  DispatchType(params.dtype, [&]<typename T>(T*) {
    if (params.head_dim <= 128) return LaunchPlain<T, 4>(context, params);
    if (params.head_dim <= 256) return LaunchPlain<T, 8>(context, params);
    return LaunchPlain<T, kMaxHeadDim / 32>(context, params);
  });
}

}  // namespace polystrate::cuda
