// Softmax of query rows as their keys come, on scores that lie in registers as products on tensor
// cores leave them. Of a tile of 16 rows a lane has parts of two, `half` 0 and 1, which lie 8
// apart: its scores[n][2 half + i], i in {0, 1}, are of keys 8 n + Member(i).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/query_tile.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda {

template <typename T>
__device__ __forceinline__ uint32_t Pack(float low, float high);
template <>
__device__ __forceinline__ uint32_t Pack<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}
template <>
__device__ __forceinline__ uint32_t Pack<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

__device__ __forceinline__ int Member(int i) { return Lane() % 4 * 2 + i % 2; }

// Scores of one row become weights. `max` is that of the scores so far, times scale log2(e); `sum`
// that of this lane's weights. Returns what has been summed so far must be multiplied by.
template <int kTiles>
__device__ __forceinline__ float WeighRow(int half, float scale_log2, float& max, float& sum,
                                          float (&scores)[kTiles][4]) {
  float now = -INFINITY;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    now = fmaxf(now, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
  }
  now = fmaxf(now, __shfl_xor_sync(kWholeWarp, now, 1));
  now = fmaxf(now, __shfl_xor_sync(kWholeWarp, now, 2));
  now = fmaxf(max, now * scale_log2);
  const float base = now == -INFINITY ? 0.0f : now;  // a row that has seen nothing: weights of 0
  const float rescale = Exp2(max - base);
  max = now;
  float added = 0.0f;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 2 * half; i < 2 * half + 2; ++i) {
      scores[n][i] = Exp2(fmaf(scores[n][i], scale_log2, -base));
      added += scores[n][i];
    }
  }
  sum = sum * rescale + added;
  return rescale;
}

// The registers of a product's result hold what those of a left side must, but for the rounding.
template <typename T, int kTiles>
__device__ __forceinline__ void PackWeights(const float (&scores)[kTiles][4],
                                            uint32_t (&weights)[kTiles / 2][4]) {
#pragma unroll
  for (int k = 0; k < kTiles / 2; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&pair)[4] = scores[2 * k + i / 2];
      weights[k][i] = Pack<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
    }
  }
}

// Writes this lane's part of a row of the output, times `factor`.
template <typename T, int kTiles>
__device__ __forceinline__ void WriteRow(const AttentionParams& params, T* to, int half,
                                         float factor, const float (&out)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int column = n * 8 + Member(0);
    if (n * 8 >= params.head_dim) break;
    const float low = out[n][2 * half] * factor;
    const float high = out[n][2 * half + 1] * factor;
    if (params.out_aligned) {
      *reinterpret_cast<uint32_t*>(to + column) = Pack<T>(low, high);
    } else {
      to[column] = FromFloat<T>(low);
      to[column + 1] = FromFloat<T>(high);
    }
  }
}

}  // namespace polystrate::cuda
