// The online softmax of decode attention (Milakov & Gimelshein 2018, arXiv:1805.02867) over tiles
// of keys, in the registers of a thread block's warps.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/context_cut.cuh"
#include "kernels/cuda/decode_shared.cuh"

namespace polystrate::cuda {

// What a lane holds of the result over some keys. Maxima and sums are those of whole rows, in all
// warps alike; of out a warp holds its own columns (decode_tile.cuh). Row h of row tile r is
// 16 r + group + 8 h.
template <typename S>
struct DecodeState {
  float max[S::kRowTiles][2];
  float sum[S::kRowTiles][2];
  float out[S::kRowTiles][S::kColumns / 8][4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int r = 0; r < S::kRowTiles; ++r) {
      max[r][0] = max[r][1] = -INFINITY;
      sum[r][0] = sum[r][1] = 0.0f;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int n = 0; n < S::kColumns / 8; ++n) out[r][n][e] = 0.0f;
      }
    }
  }

  // The result over these keys and those of `state`, which come after them.
  __device__ __forceinline__ void Add(const DecodeState& state) {
#pragma unroll
    for (int r = 0; r < S::kRowTiles; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const FoldScale scale = FoldMax(state.max[r][h], &max[r][h]);
        sum[r][h] = Fold(sum[r][h], state.sum[r][h], scale);
#pragma unroll
        for (int n = 0; n < S::kColumns / 8; ++n) {
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) {
            out[r][n][e] = Fold(out[r][n][e], state.out[r][n][e], scale);
          }
        }
      }
    }
  }

  // Makes room for scores up to `tile_max` in row h of row tile r.
  __device__ __forceinline__ void Rescale(int r, int h, float tile_max) {
    const float scale = FoldMax(tile_max, &max[r][h]).kept;
    sum[r][h] *= scale;
#pragma unroll
    for (int n = 0; n < S::kColumns / 8; ++n) {
      out[r][n][2 * h] *= scale;
      out[r][n][2 * h + 1] *= scale;
    }
  }
};

template <typename S>
using DecodeScores = float[S::kRowTiles][S::kKeyTiles][4];

// Scales the warp's scores, hides those of keys from num_keys on, and leaves the largest of each
// row in shared.maxima.
template <typename S>
__device__ __forceinline__ void FindMaxima(DecodeScores<S>& scores, int first_key, int num_keys,
                                           float scale, const DecodeShared<S>& shared) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < S::kRowTiles; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float largest = -INFINITY;
#pragma unroll
      for (int n = 0; n < S::kKeyTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[r][n][2 * h + e];
          const bool visible = first_key + 8 * n + lane % 4 * 2 + e < num_keys;
          score = visible ? score * scale : -INFINITY;
          largest = fmaxf(largest, score);
        }
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      const int row = 16 * r + 8 * h + lane / 4;
      if (lane % 4 == 0) shared.maxima[row * kDecodeWarps + threadIdx.x / 32] = largest;
    }
  }
}

// Rescales the state to the new maxima and turns the warp's scores into weights in shared.weights.
template <typename S>
__device__ __forceinline__ void WriteWeights(const DecodeScores<S>& scores, int first_key,
                                             int num_keys, const DecodeShared<S>& shared,
                                             DecodeState<S>* state) {
  static_assert(kDecodeWarps == 4, "one float4 holds a row's maxima");
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < S::kRowTiles; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = 16 * r + 8 * h + lane / 4;
      const float4 maxima = *reinterpret_cast<const float4*>(shared.maxima + row * kDecodeWarps);
      state->Rescale(r, h, fmaxf(fmaxf(maxima.x, maxima.y), fmaxf(maxima.z, maxima.w)));
#pragma unroll
      for (int n = 0; n < S::kKeyTiles; ++n) {
        const int key = first_key + 8 * n + lane % 4 * 2;
        if (key >= S::kTileKeys) continue;
        float weight[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float difference = scores[r][n][2 * h + e] - state->max[r][h];
          // A hidden key weighs nothing, even where nothing was seen but scores of -infinity.
          weight[e] = key + e < num_keys ? Exp2(difference) : 0.0f;
        }
        StorePair(shared.weights + row * S::kWeightStride + key, weight[0], weight[1]);
      }
    }
  }
}

// Adds the first num_keys keys (at least one) of the tile in `stage` to the state. `scale` brings
// scores to powers of two.
template <typename S>
__device__ __forceinline__ void AttendTile(int stage, int num_keys, float scale, bool rotated,
                                           const DecodeShared<S>& shared, DecodeState<S>* state) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_key = warp * S::kWarpKeys;
  DecodeScores<S> scores = {};
  if (first_key < S::kTileKeys) {
    MultiplyKeys<S>(shared.query, shared.Keys(stage), first_key, lane, scores);
    if constexpr (DecodeShared<S>::kHasRest) {
      if (rotated) MultiplyKeys<S>(shared.query, shared.rest, first_key, lane, scores);
    }
  }
  FindMaxima<S>(scores, first_key, num_keys, scale, shared);
  __syncthreads();
  WriteWeights<S>(scores, first_key, num_keys, shared, state);
  __syncthreads();
  float sums[S::kRowTiles][4] = {};
  MultiplyValues<S>(shared.weights, shared.Values(stage), warp * S::kColumns, lane, sums,
                    state->out);
#pragma unroll
  for (int r = 0; r < S::kRowTiles; ++r) {
    state->sum[r][0] += sums[r][0];
    state->sum[r][1] += sums[r][2];
  }
}

}  // namespace polystrate::cuda
