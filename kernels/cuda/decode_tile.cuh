// What one thread block of decode attention multiplies: a tile of keys and values in shared memory
// with the query heads that read them, 16 rows or a few times 16.
//
// Scores are shared out over the warps by keys, outputs by columns, so every byte of K and V is
// read from shared memory once. In both, a lane holds of 16 rows and 8 columns what it holds of the
// result of an Mma16816: rows group and group + 8, columns 2 member and 2 member + 1 (ptx.cuh).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda {

inline constexpr int kDecodeWarps = 4;
inline constexpr int kDecodeThreads = 32 * kDecodeWarps;

// kWidth: head_dim rounded up to 64, 128, 256 or 512; what is beyond head_dim is zero.
template <typename T_, int kWidth_, int kRowTiles_>
struct DecodeShape {
  using T = T_;
  static constexpr int kWidth = kWidth_;
  static constexpr int kRowTiles = kRowTiles_;
  static constexpr int kRows = 16 * kRowTiles;
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(T));  // elements in 16 bytes
  static constexpr int kRowKeys = 16384 / (kWidth * static_cast<int>(sizeof(T)));
  static constexpr int kTileKeys = kRowKeys > 64 ? 64 : kRowKeys < 16 ? 16 : kRowKeys;
  // Where there are many rows the registers do not hold a piece besides what it is added to.
  static constexpr int kPieceKeys = kRowTiles > 2 ? kTileKeys : 128;  // CutContext
  static constexpr int kTile = kTileKeys * kWidth;  // elements of a tile of K, or of V
  // Tiles of K and V in shared memory: one is multiplied, the others are on their way. So many that
  // two blocks fit a multiprocessor where its memory allows it.
  static constexpr int kStages = kRowTiles > 2 || kTile * sizeof(T) > 16384 ? 2 : 3;
  static constexpr int kKeyTiles = kTileKeys < 8 * kDecodeWarps ? 1 : kTileKeys / 8 / kDecodeWarps;
  static constexpr int kWarpKeys = 8 * kKeyTiles;  // keys of a warp; few keys, idle warps
  static constexpr int kColumns = kWidth / kDecodeWarps;
  // Rows that are not multiples of 128 bytes apart keep LoadMatrix4 free of bank conflicts.
  static constexpr int kQueryStride = kWidth + kChunk;
  static constexpr int kWeightStride = kTileKeys + kChunk;
};

// Where an element lies in a tile: rows of kWidth, the 16-byte chunks of each eight rows permuted,
// which does for unpadded rows what the strides above do for the others.
template <typename S>
__device__ __forceinline__ int InTile(int row, int column) {
  const int chunk = (column / S::kChunk) ^ (row % 8);
  return row * S::kWidth + chunk * S::kChunk + column % S::kChunk;
}

__device__ __forceinline__ void StorePair(float* to, float a, float b) {
  *reinterpret_cast<float2*>(to) = make_float2(a, b);
}
__device__ __forceinline__ void StorePair(__nv_bfloat16* to, float a, float b) {
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(a, b);
}
__device__ __forceinline__ void StorePair(__half* to, float a, float b) {
  *reinterpret_cast<__half2*>(to) = __floats2half2_rn(a, b);
}

// Two ones, as elements of a fragment.
template <typename T>
inline constexpr uint32_t kOnes = std::is_same_v<T, __half> ? 0x3c003c00u : 0x3f803f80u;

// A fragment of 16 rows and 16 columns, from rows `stride` apart.
template <typename T>
__device__ __forceinline__ void LoadRows16(uint32_t (&a)[4], const T* rows, int stride, int lane) {
  LoadMatrix4(a, rows + (lane % 16) * stride + lane / 16 * 8);
}

// scores[r][n] += rows 16 r .. of query times the keys first_key + 8 n .. of the tile.
template <typename S>
requires(!std::is_same_v<typename S::T, float>) __device__ __forceinline__
    void MultiplyKeys(const typename S::T* query, const typename S::T* keys, int first_key,
                      int lane, float (&scores)[S::kRowTiles][S::kKeyTiles][4]) {
  using T = typename S::T;
#pragma unroll(S::kRowTiles > 2 ? 1 : S::kWidth <= 128 ? S::kWidth / 32 : 2)
  for (int d = 0; d < S::kWidth; d += 32) {
    uint32_t k[S::kKeyTiles][4];
#pragma unroll
    for (int n = 0; n < S::kKeyTiles; ++n) {
      LoadMatrix4(k[n], keys + InTile<S>(first_key + 8 * n + lane % 8, d + lane / 8 * 8));
    }
#pragma unroll
    for (int r = 0; r < S::kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t q[4];
        LoadRows16(q, query + 16 * r * S::kQueryStride + d + 16 * half, S::kQueryStride, lane);
#pragma unroll
        for (int n = 0; n < S::kKeyTiles; ++n) {
          Mma16816<T>(scores[r][n], q, {k[n][2 * half], k[n][2 * half + 1]});
        }
      }
    }
  }
}

// out[r][n] += rows 16 r .. of weights times the columns first_column + 8 n .. of the tile; sums[r]
// += the sums of the rows, in its elements 0 and 2.
template <typename S>
requires(!std::is_same_v<typename S::T, float>) __device__ __forceinline__
    void MultiplyValues(const typename S::T* weights, const typename S::T* values, int first_column,
                        int lane, float (&sums)[S::kRowTiles][4],
                        float (&out)[S::kRowTiles][S::kColumns / 8][4]) {
  using T = typename S::T;
#pragma unroll(S::kRowTiles > 2 ? 1 : 4)
  for (int key = 0; key < S::kTileKeys; key += 16) {
    uint32_t p[S::kRowTiles][4];
#pragma unroll
    for (int r = 0; r < S::kRowTiles; ++r) {
      LoadRows16(p[r], weights + 16 * r * S::kWeightStride + key, S::kWeightStride, lane);
      Mma16816<T>(sums[r], p[r], {kOnes<T>, kOnes<T>});
    }
#pragma unroll
    for (int n = 0; n < S::kColumns / 8; n += 2) {
      uint32_t v[4];
      LoadMatrix4Transposed(
          v, values + InTile<S>(key + lane % 16, first_column + 8 * n + lane / 16 * 8));
#pragma unroll
      for (int r = 0; r < S::kRowTiles; ++r) {
        Mma16816<T>(out[r][n], p[r], {v[0], v[1]});
        Mma16816<T>(out[r][n + 1], p[r], {v[2], v[3]});
      }
    }
  }
}

__device__ __forceinline__ float Dot(float4 a, float4 b, float c) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, c))));
}

// The same without tensor cores, which have no float32.
template <typename S>
requires(std::is_same_v<typename S::T, float>) __device__ __forceinline__
    void MultiplyKeys(const float* query, const float* keys, int first_key, int lane,
                      float (&scores)[S::kRowTiles][S::kKeyTiles][4]) {
  const int group = lane / 4, member = lane % 4;
  for (int d = 0; d < S::kWidth; d += 4) {
#pragma unroll
    for (int i = 0; i < S::kKeyTiles * 2; ++i) {
      const int key = first_key + 8 * (i / 2) + 2 * member + i % 2;
      const float4 k = *reinterpret_cast<const float4*>(keys + InTile<S>(key, d));
#pragma unroll
      for (int r = 0; r < S::kRowTiles * 2; ++r) {
        float& score = scores[r / 2][i / 2][r % 2 * 2 + i % 2];
        const float* row = query + (8 * r + group) * S::kQueryStride + d;
        score = Dot(*reinterpret_cast<const float4*>(row), k, score);
      }
    }
  }
}

template <typename S>
requires(std::is_same_v<typename S::T, float>) __device__ __forceinline__
    void MultiplyValues(const float* weights, const float* values, int first_column, int lane,
                        float (&sums)[S::kRowTiles][4],
                        float (&out)[S::kRowTiles][S::kColumns / 8][4]) {
  const int group = lane / 4, member = lane % 4;
  for (int key = 0; key < S::kTileKeys; ++key) {
    float p[S::kRowTiles * 2];
#pragma unroll
    for (int r = 0; r < S::kRowTiles * 2; ++r) {
      p[r] = weights[(8 * r + group) * S::kWeightStride + key];
      sums[r / 2][r % 2 * 2] += p[r];
    }
#pragma unroll
    for (int n = 0; n < S::kColumns / 8; ++n) {
      const float2 v = *reinterpret_cast<const float2*>(
          values + InTile<S>(key, first_column + 8 * n + 2 * member));
#pragma unroll
      for (int r = 0; r < S::kRowTiles * 2; ++r) {
        float(&o)[4] = out[r / 2][n];
        o[r % 2 * 2] = fmaf(p[r], v.x, o[r % 2 * 2]);
        o[r % 2 * 2 + 1] = fmaf(p[r], v.y, o[r % 2 * 2 + 1]);
      }
    }
  }
}

}  // namespace polystrate::cuda
