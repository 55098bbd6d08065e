// What the prefill kernel keeps in shared memory: a tile of query rows and one step's keys and
// values, fetched from wherever the block table says.
#pragma once

#include <bit>
#include <climits>
#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/query_tile.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda::prefill {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kKeys = 64;  // of a step
inline constexpr int kPiece = 8;  // elements of 16 bytes

// kHeadDim: head_dim padded to what is compiled; the padding is zeros.
template <int kHeadDim>
struct Shape {
  static constexpr int kRowTiles = kHeadDim <= 128 ? 2 : 1;  // of a warp, 16 rows each
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kPitch = kHeadDim + kPiece;  // of rows in shared memory
  static constexpr int kPieces = kHeadDim / kPiece;
  static constexpr int64_t kSharedBytes =
      (kRows + 2 * kKeys) * kPitch * 2 + 2 * kKeys * static_cast<int64_t>(sizeof(int64_t));
};

template <typename T>
struct SharedTiles {
  T* query;       // [kRows, kPitch]
  T* key;         // [kKeys, kPitch]
  T* value;       // the same
  int64_t* rows;  // [2, kKeys]: bytes from the cache to the rows of this step and the next
};

template <typename T, int kHeadDim>
__device__ __forceinline__ SharedTiles<T> DivideShared() {
  using S = Shape<kHeadDim>;
  SharedTiles<T> shared;
  shared.rows = reinterpret_cast<int64_t*>(DynamicShared());
  shared.query = reinterpret_cast<T*>(shared.rows + 2 * kKeys);
  shared.key = shared.query + S::kRows * S::kPitch;
  shared.value = shared.key + kKeys * S::kPitch;
  return shared;
}

template <typename T, int kHeadDim>
__device__ __forceinline__ void CopyQuery(const AttentionParams& params, const QueryTile& tile,
                                          T* shared) {
  using S = Shape<kHeadDim>;
  const T* query = static_cast<const T*>(params.query);
  for (int i = static_cast<int>(threadIdx.x); i < S::kRows * S::kPieces; i += kThreads) {
    const int row = i / S::kPieces, column = i % S::kPieces * kPiece;
    const bool valid = row < tile.num_rows && column < params.head_dim;
    const T* from =
        valid ? query + tile.Offset(row, params.query_stride, params.head_dim) + column : query;
    T* to = shared + row * S::kPitch + column;
    if (params.query_aligned) {
      CopyAsync16(to, from, valid);
      continue;
    }
    for (int j = 0; j < kPiece; ++j) to[j] = valid ? from[j] : FromFloat<T>(0.0f);
  }
}

// Where the keys from `begin` on lie, into rows[kKeys].
template <typename T>
__device__ __forceinline__ void FindKeys(const AttentionParams& params, const QueryTile& tile,
                                         int begin, int64_t* rows) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kKeys) return;
  const int position = begin + i;
  rows[i] = 0;
  if (position >= tile.key_end) return;
  const int64_t row = CacheRow(params, tile.block_table, tile.kv_head, position);
  rows[i] = row * static_cast<int64_t>(sizeof(T));
}

// Calls f(row, column) for the pieces of a step that this thread copies.
template <int kHeadDim, typename F>
__device__ __forceinline__ void ForOwnPieces(F&& f) {
  constexpr int kRowThreads = std::bit_ceil(unsigned{Shape<kHeadDim>::kPieces});  // of one row
  const int column = static_cast<int>(threadIdx.x) % kRowThreads * kPiece;
  if (column >= kHeadDim) return;
#pragma unroll
  for (int row = 0; row < kKeys; row += kThreads / kRowThreads) {
    f(row + static_cast<int>(threadIdx.x) / kRowThreads, column);
  }
}

// Rows from `count` on become zeros: what is multiplied must be finite, and blocks hold anything.
template <typename T, int kHeadDim>
__device__ __forceinline__ void CopyStep(const T* cache, const int64_t* rows, int count,
                                         int head_dim, T* shared) {
  ForOwnPieces<kHeadDim>([&](int row, int column) {
    CopyAsync16(shared + row * Shape<kHeadDim>::kPitch + column,
                reinterpret_cast<const char*>(cache + column) + rows[row],
                row < count && column < head_dim);
  });
  CommitCopies();
}

// Rotates kPairs neighbours of the first half of a key with those of the second.
template <int kPairs, typename T>
__device__ __forceinline__ void RotatePairs(const float* cosines, const float* sines, T* low,
                                            T* high) {
  struct alignas(kPairs * sizeof(float)) Floats {
    float at[kPairs];
  };
  struct alignas(kPairs * sizeof(T)) Elements {
    T at[kPairs];
  };
  const Floats cosine = *reinterpret_cast<const Floats*>(cosines);
  const Floats sine = *reinterpret_cast<const Floats*>(sines);
  Elements lows = *reinterpret_cast<Elements*>(low), highs = *reinterpret_cast<Elements*>(high);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const float a = ToFloat(lows.at[i]), b = ToFloat(highs.at[i]);
    lows.at[i] = FromFloat<T>(a * cosine.at[i] - b * sine.at[i]);
    highs.at[i] = FromFloat<T>(b * cosine.at[i] + a * sine.at[i]);
  }
  *reinterpret_cast<Elements*>(low) = lows;
  *reinterpret_cast<Elements*>(high) = highs;
}

// Rotates the step's keys in place, a warp each.
template <typename T>
__device__ __forceinline__ void RotateKeys(const AttentionParams& params, int begin, int count,
                                           int pitch, T* keys) {
  const int half = params.rotary_dim / 2;
  for (int row = Warp(); row < count; row += kWarps) {
    const float* cosines = params.cos_sin + int64_t{begin + row} * params.rotary_dim;
    const float* sines = cosines + half;
    T* low = keys + row * pitch;
    T* high = low + half;
    if (half % 2 == 0) {
      for (int j = 2 * Lane(); j < half; j += 64) {
        RotatePairs<2>(cosines + j, sines + j, low + j, high + j);
      }
    } else {
      for (int j = Lane(); j < half; j += 32) {
        RotatePairs<1>(cosines + j, sines + j, low + j, high + j);
      }
    }
  }
}

// Whether a value that this thread copied is not finite.
template <typename T, int kHeadDim>
__device__ __forceinline__ bool AnyNonFinite(const T* values) {
  bool any = false;
  ForOwnPieces<kHeadDim>([&](int row, int column) {
    const uint4 piece =
        *reinterpret_cast<const uint4*>(values + row * Shape<kHeadDim>::kPitch + column);
    for (const uint32_t pair : {piece.x, piece.y, piece.z, piece.w}) {
      any |= !IsFinite<T>(pair) || !IsFinite<T>(pair >> 16);
    }
  });
  return any;
}

// Where some row must not see a value that is not finite, a weight of zero does not hide it. So
// those values become zeros, and first_hole[column] the first position that had one.
template <typename T, int kHeadDim>
__device__ __forceinline__ void FillHoles(int begin, T* values, int* first_hole) {
  for (int column = static_cast<int>(threadIdx.x); column < kHeadDim; column += kThreads) {
    first_hole[column] = INT_MAX;
#pragma unroll 1  // as good as never run
    for (int key = kKeys - 1; key >= 0; --key) {
      T& value = values[key * Shape<kHeadDim>::kPitch + column];
      if (isfinite(ToFloat(value))) continue;
      value = FromFloat<T>(0.0f);
      first_hole[column] = begin + key;
    }
  }
}

}  // namespace polystrate::cuda::prefill
