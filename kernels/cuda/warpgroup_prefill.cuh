// What warpgroup_prefill_attention.cu keeps in shared memory, and the warps that fill it.
#pragma once

#include <climits>
#include <cstdint>

#include "kernels/cuda/operand_tile.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/query_tile.cuh"
#include "kernels/cuda/types.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace polystrate::cuda::warpgroup_prefill {

inline constexpr int kGroupThreads = 128;  // of a warpgroup
inline constexpr int kGroups = 2;          // warpgroups that compute; one more loads
inline constexpr int kThreads = (1 + kGroups) * kGroupThreads;
inline constexpr int kGroupRows = 64;  // of queries; 16 for each warp
inline constexpr int kRows = kGroups * kGroupRows;
inline constexpr int kKeys = 128;       // of a step
inline constexpr int kStages = 2;       // steps in shared memory
inline constexpr int kLoaderWarps = 2;  // that copy keys, and as many that copy values
inline constexpr int kLoaderRows = kKeys / kLoaderWarps;
inline constexpr int kPiece = 8;  // elements of 16 bytes

// kHeadDim: head_dim padded to what is compiled; the padding is zeros.
template <int kHeadDim>
struct Shape {
  using Query = OperandTile<kRows, kHeadDim>;
  using Step = OperandTile<kKeys, kHeadDim>;  // of keys or values
  static constexpr int64_t kSharedBytes =
      Query::kBytes + 2 * kStages * Step::kBytes + Query::kAlignment;
};

// The stages of keys or of values: which are full, and which have been read by all.
struct Pipe {
  uint64_t full[kStages];
  uint64_t empty[kStages];
};

template <int kHeadDim>
struct Shared {
  QueryTile tile;
  uint64_t query_full[kGroups];
  Pipe keys, values;
  int first_hole[kHeadDim];  // first position whose value had to be hidden (HideHoles), by column
};

// Called by one thread.
template <int kHeadDim>
__device__ __forceinline__ void InitBarriers(Shared<kHeadDim>& shared) {
  for (uint64_t& barrier : shared.query_full) InitBarrier(&barrier, kGroupThreads);
  for (Pipe* pipe : {&shared.keys, &shared.values}) {
    for (uint64_t& barrier : pipe->full) InitBarrier(&barrier, 32 * kLoaderWarps);
    for (uint64_t& barrier : pipe->empty) InitBarrier(&barrier, kGroups * kGroupThreads / 32);
  }
}

// Operand tiles in dynamic shared memory: queries, kStages steps of keys, kStages of values.
template <int kHeadDim>
struct Tiles {
  using S = Shape<kHeadDim>;
  unsigned char* query;
  unsigned char* keys;
  unsigned char* values;

  __device__ Tiles() {
    unsigned char* begin = DynamicShared();
    const uint32_t beyond = SharedAddress(begin) % S::Query::kAlignment;
    query = begin + (beyond == 0 ? 0 : S::Query::kAlignment - beyond);
    keys = query + S::Query::kBytes;
    values = keys + kStages * S::Step::kBytes;
  }
};

// Called by the threads of a warpgroup, for its rows.
template <typename T, int kHeadDim>
__device__ __forceinline__ void CopyQuery(const AttentionParams& params, const QueryTile& tile,
                                          int group, unsigned char* to) {
  constexpr int kPieces = kHeadDim / kPiece;
  const T* query = static_cast<const T*>(params.query);
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  for (int i = thread; i < kGroupRows * kPieces; i += kGroupThreads) {
    const int row = group * kGroupRows + i / kPieces, column = i % kPieces * kPiece;
    const bool valid = row < tile.num_rows && column < params.head_dim;
    const T* from =
        valid ? query + tile.Offset(row, params.query_stride, params.head_dim) + column : query;
    unsigned char* piece = to + Shape<kHeadDim>::Query::PieceOffset(row, column);
    if (params.query_aligned) {
      CopyAsync16(piece, from, valid);
      continue;
    }
    alignas(16) T elements[kPiece];
    for (int j = 0; j < kPiece; ++j) elements[j] = valid ? from[j] : FromFloat<T>(0.0f);
    StoreShared(piece, *reinterpret_cast<const uint4*>(elements));
  }
  CommitCopies();
  WaitCopies<0>();
  FenceProducts();
}

// Where the rows of a step lie that this warp copies, in bytes from the cache: row 32 i + lane of
// them is at[i].
struct RowPlaces {
  int64_t at[kLoaderRows / 32];
};
__device__ __forceinline__ int FirstRow() { return Warp() % kLoaderWarps * kLoaderRows; }

template <typename T>
__device__ __forceinline__ RowPlaces FindRows(const AttentionParams& params, const QueryTile& tile,
                                              int begin) {
  RowPlaces places;
#pragma unroll
  for (int i = 0; i < kLoaderRows / 32; ++i) {
    const int position = begin + FirstRow() + 32 * i + Lane();
    places.at[i] = 0;
    if (position >= tile.key_end) continue;
    places.at[i] = CacheRow(params, tile.block_table, tile.kv_head, position) *
                   static_cast<int64_t>(sizeof(T));
  }
  return places;
}

// Rows from `count` on become zeros: what is multiplied must be finite, and blocks hold anything.
template <int kHeadDim>
__device__ __forceinline__ void CopyStep(const void* cache, const RowPlaces& places, int count,
                                         int head_dim, unsigned char* to) {
  constexpr int kRowThreads = kHeadDim / kPiece;
  const int column = Lane() % kRowThreads * kPiece;
  const char* from = static_cast<const char*>(cache) + 2 * column;
#pragma unroll
  for (int i = 0; i < kLoaderRows / 32; ++i) {
#pragma unroll 4
    for (int j = 0; j < 32; j += 32 / kRowThreads) {
      const int64_t at = __shfl_sync(kWholeWarp, places.at[i], j + Lane() / kRowThreads);
      const int row = FirstRow() + 32 * i + j + Lane() / kRowThreads;
      CopyAsync16(to + Shape<kHeadDim>::Step::PieceOffset(row, column), from + at,
                  row < count && column < head_dim);
    }
  }
  CommitCopies();
}

// Where some row must not see a value that is not finite, a weight of zero does not hide it. So of
// those that this thread has copied, such values become zeros, and first_hole is told.
template <typename T, int kHeadDim>
__device__ __forceinline__ void HideHoles(int begin, unsigned char* values, int* first_hole) {
  constexpr int kRowThreads = kHeadDim / kPiece;
  const int column = Lane() % kRowThreads * kPiece;
#pragma unroll 1
  for (int i = 0; i < kLoaderRows; i += 32 / kRowThreads) {
    const int row = FirstRow() + i + Lane() / kRowThreads;
    unsigned char* piece = values + Shape<kHeadDim>::Step::PieceOffset(row, column);
    uint4 bits = *reinterpret_cast<const uint4*>(piece);
    bool all_finite = true;
    uint32_t* words[4] = {&bits.x, &bits.y, &bits.z, &bits.w};
#pragma unroll
    for (int j = 0; j < kPiece; ++j) {
      if (IsFinite<T>(*words[j / 2] >> 16 * (j % 2))) continue;
      *words[j / 2] &= 0xffff0000u >> 16 * (j % 2);
      atomicMin(first_hole + column + j, begin + row);
      all_finite = false;
    }
    if (!all_finite) StoreShared(piece, bits);
  }
}

// What the loading warps do: the first kLoaderWarps copy keys, the others values, each a step as
// soon as its stage is empty.
template <typename T, int kHeadDim>
__device__ __forceinline__ void LoadSteps(const AttentionParams& params, Shared<kHeadDim>& shared,
                                          const Tiles<kHeadDim>& tiles) {
  using Step = typename Shape<kHeadDim>::Step;
  const QueryTile tile = shared.tile;
  const bool values = Warp() >= kLoaderWarps;
  const void* cache = values ? params.value : params.key;
  Pipe& pipe = values ? shared.values : shared.keys;
  unsigned char* stages = values ? tiles.values : tiles.keys;
  RowPlaces places = FindRows<T>(params, tile, 0);
  for (int begin = 0; begin < tile.key_end; begin += kKeys) {
    const int step = begin / kKeys, stage = step % kStages;
    unsigned char* to = stages + stage * Step::kBytes;
    AwaitPhase(&pipe.empty[stage], (step / kStages + 1) % 2);
    CopyStep<kHeadDim>(cache, places, tile.key_end - begin, params.head_dim, to);
    places = FindRows<T>(params, tile, begin + kKeys);
    WaitCopies<0>();
    if (values && begin + kKeys > tile.mask_begin) {
      HideHoles<T, kHeadDim>(begin, to, shared.first_hole);
    }
    FenceProducts();
    Arrive(&pipe.full[stage]);
  }
}

}  // namespace polystrate::cuda::warpgroup_prefill
