// A thread block's shared memory in decode attention, and how it is filled from the paged cache.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/decode_tile.cuh"

namespace polystrate::cuda {

template <typename S>
struct DecodeShared {
  using T = typename S::T;

  // What rounding took from rotated keys (RotateKeys); float32 has none, and nor have keys that are
  // read as they are.
  static constexpr bool kHasRest = sizeof(T) == 2;
  static constexpr int64_t kPlainBytes =
      (S::kStages * 2 * S::kTile + S::kRows * (S::kQueryStride + S::kWeightStride)) *
          static_cast<int64_t>(sizeof(T)) +
      S::kRows * int64_t{sizeof(float4)} + S::kStages * S::kTileKeys * int64_t{sizeof(int64_t)};
  static constexpr int64_t Bytes(bool rotates) {
    return kPlainBytes + (rotates && kHasRest ? S::kTile * int64_t{sizeof(T)} : 0);
  }

  T* tiles;        // [kStages][key, value][kTileKeys, kWidth], InTile
  T* query;        // [kRows, kQueryStride]
  T* weights;      // [kRows, kWeightStride]
  float* maxima;   // [kRows, kDecodeWarps]
  int64_t* where;  // [kStages][kTileKeys]: where the key's row lies in the cache; -1: no such key
  T* rest;         // [kTileKeys, kWidth], InTile

  __device__ __forceinline__ DecodeShared()
      : tiles(reinterpret_cast<T*>(DynamicShared())),
        query(tiles + S::kStages * 2 * S::kTile),
        weights(query + S::kRows * S::kQueryStride),
        maxima(reinterpret_cast<float*>(weights + S::kRows * S::kWeightStride)),
        where(reinterpret_cast<int64_t*>(maxima + S::kRows * kDecodeWarps)),
        rest(reinterpret_cast<T*>(where + S::kStages * S::kTileKeys)) {}

  __device__ __forceinline__ T* Keys(int stage) const { return tiles + stage * 2 * S::kTile; }
  __device__ __forceinline__ T* Values(int stage) const { return Keys(stage) + S::kTile; }
  __device__ __forceinline__ int64_t* Where(int stage) const {
    return where + stage * S::kTileKeys;
  }
};

// Copies the 16 bytes at `from`, of which `count` elements are there and the others become zero,
// without waiting. `aligned`: to 16 bytes, and count is none or all.
template <typename T>
__device__ __forceinline__ void CopyChunk(T* to, const T* from, int count, bool aligned) {
  if (aligned) {
    CopyAsync16(to, from, count > 0);
    return;
  }
  constexpr int kChunk = 16 / sizeof(T);
  for (int i = 0; i < kChunk; ++i) to[i] = i < count ? from[i] : FromFloat<T>(0.0f);
}

// The query heads [first_head, first_head + num_rows) of a token; the rows after them are zero.
template <typename S>
__device__ __forceinline__ void CopyQuery(const AttentionParams& params, int token, int first_head,
                                          int num_rows, const DecodeShared<S>& shared) {
  using T = typename S::T;
  constexpr int kChunks = S::kWidth / S::kChunk;
  const T* query = static_cast<const T*>(params.query) + token * params.query_stride;
  for (int i = threadIdx.x; i < S::kRows * kChunks; i += kDecodeThreads) {
    const int row = i / kChunks, column = i % kChunks * S::kChunk;
    const T* from = query + int64_t{first_head + row} * params.head_dim + column;
    CopyChunk(shared.query + row * S::kQueryStride + column, from,
              row < num_rows ? params.head_dim - column : 0, params.query_aligned);
  }
}

// One tile of K and V: the keys that shared.Where(stage) tells, zeros for those that are not there,
// whose bytes in the cache may be anything. A thread copies one column of chunks.
template <typename S>
__device__ __forceinline__ void CopyTile(const AttentionParams& params, int stage,
                                         const DecodeShared<S>& shared) {
  using T = typename S::T;
  constexpr int kChunks = S::kWidth / S::kChunk;
  static_assert(kDecodeThreads % kChunks == 0);
  const int column = static_cast<int>(threadIdx.x) % kChunks * S::kChunk;
  const int count = params.head_dim - column;
  const int64_t* where = shared.Where(stage);
  T* keys = shared.Keys(stage);
  const T* from_keys = static_cast<const T*>(params.key) + column;
  const T* from_values = static_cast<const T*>(params.value) + column;
#pragma unroll(S::kRowTiles > 2 ? 1 : 4)
  for (int row = threadIdx.x / kChunks; row < S::kTileKeys; row += kDecodeThreads / kChunks) {
    const int64_t begin = where[row];
    const int there = begin < 0 ? 0 : count;
    const int64_t from = begin < 0 ? 0 : begin;
    T* to = keys + InTile<S>(row, column);
    CopyChunk(to, from_keys + from, there, params.cache_aligned);
    CopyChunk(to + S::kTile, from_values + from, there, params.cache_aligned);
  }
}

// Rotates the keys of a tile, the first of which is at first_position, in place. What a rounded key
// lacks goes to `rest`, whose columns from rotary_dim on are zero and stay so.
template <typename S>
__device__ __forceinline__ void RotateKeys(const AttentionParams& params, int first_position,
                                           int num_keys, int stage, const DecodeShared<S>& shared) {
  using T = typename S::T;
  const int half = params.rotary_dim / 2;
  T* keys = shared.Keys(stage);
  for (int i = threadIdx.x; i < num_keys * half; i += kDecodeThreads) {
    const int row = i / half, column = i - row * half;
    const float* angles = params.cos_sin + int64_t{first_position + row} * params.rotary_dim;
    const float cosine = __ldg(angles + column), sine = __ldg(angles + half + column);
    const int at_a = InTile<S>(row, column), at_b = InTile<S>(row, half + column);
    const float a = ToFloat(keys[at_a]), b = ToFloat(keys[at_b]);
    const float rotated_a = a * cosine - b * sine;
    const float rotated_b = fmaf(b, cosine, a * sine);
    keys[at_a] = FromFloat<T>(rotated_a);
    keys[at_b] = FromFloat<T>(rotated_b);
    if constexpr (DecodeShared<S>::kHasRest) {
      shared.rest[at_a] = FromFloat<T>(rotated_a - ToFloat(keys[at_a]));
      shared.rest[at_b] = FromFloat<T>(rotated_b - ToFloat(keys[at_b]));
    }
  }
}

}  // namespace polystrate::cuda
