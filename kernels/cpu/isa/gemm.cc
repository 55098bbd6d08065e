// Dot products of few activation rows with many weight rows.
//
// Tiles of 4 weight rows by kLanes / 4 activation rows: the partial sums fill kLanes registers,
// which one transposition turns into kLanes results. Each result is summed in an order that depends
// on k alone, so a row's output does not depend on how many rows come along. Bytes moved: the
// weights once (4 rows stay in the L1 cache while all activation rows pass over them).
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/simd.h"

namespace polystrate::cpu::POLYSTRATE_ISA {
namespace {

constexpr int kTileWeights = 4;
constexpr int64_t kPrefetchBytes = 4096;
constexpr int kTileRows = kLanes / kTileWeights;

template <typename T>
struct Tile {
  const T* x;
  int64_t x_stride;
  const T* weight[kTileWeights];
  int64_t k;
  int64_t prefetch;  // how many elements ahead the next tile's weights lie
};

// results[r * kTileWeights + w] = x row r . weight row w. Always inlined: the sums live in
// registers.
template <typename T, int kRows, bool kPrefetch>
POLYSTRATE_INLINE Vec DotTile(const Tile<T>& tile) {
  Vec acc[kLanes];
  POLYSTRATE_UNROLL
  for (int i = 0; i < kLanes; ++i) acc[i] = Zero();
  int64_t i = 0;
  for (; i + kPacked<T> <= tile.k; i += kPacked<T>) {
    decltype(LoadPacked(tile.x)) x[kRows];
    POLYSTRATE_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = LoadPacked(tile.x + r * tile.x_stride + i);
    POLYSTRATE_UNROLL
    for (int w = 0; w < kTileWeights; ++w) {
      const auto weight = LoadPacked(tile.weight[w] + i);
      if constexpr (kPrefetch) Prefetch(tile.weight[w] + i + tile.prefetch);
      POLYSTRATE_UNROLL
      for (int r = 0; r < kRows; ++r) {
        Vec& sum = acc[r * kTileWeights + w];
        sum = DotAdd(sum, x[r], weight);
      }
    }
  }
  if (i < tile.k) {
    const int rest = static_cast<int>(tile.k - i);
    POLYSTRATE_UNROLL
    for (int w = 0; w < kTileWeights; ++w) {
      const auto weight = LoadPackedPartial(tile.weight[w] + i, rest);
      POLYSTRATE_UNROLL
      for (int r = 0; r < kRows; ++r) {
        Vec& sum = acc[r * kTileWeights + w];
        sum = DotAdd(sum, LoadPackedPartial(tile.x + r * tile.x_stride + i, rest), weight);
      }
    }
  }
  return TransposeSum(acc);
}

template <typename T, bool kPrefetch>
POLYSTRATE_INLINE Vec DotTileRows(const Tile<T>& tile, int num_rows) {
  switch (num_rows) {
    case 1:
      return DotTile<T, 1, kPrefetch>(tile);
    case 2:
      return DotTile<T, 2, kPrefetch>(tile);
#if __AVX512F__
    case 3:
      return DotTile<T, 3, kPrefetch>(tile);
    case 4:
      return DotTile<T, 4, kPrefetch>(tile);
#endif
  }
  return Zero();
}

template <typename T>
void Dot(const DotTask& task) {
  Tile<T> tile;
  tile.x_stride = task.x_stride;
  tile.k = task.k;
  // Whole tiles ahead: far enough to hide the memory's latency behind the arithmetic between.
  const int64_t tile_elements = task.k > 0 ? kTileWeights * task.k : 1;
  tile.prefetch =
      (kPrefetchBytes / static_cast<int64_t>(sizeof(T)) / tile_elements + 1) * tile_elements;
  for (int n = 0; n < task.n; n += kTileWeights) {
    const int num_weights = task.n - n < kTileWeights ? task.n - n : kTileWeights;
    for (int w = 0; w < kTileWeights; ++w) {
      const int row = n + (w < num_weights ? w : 0);  // a missing row is computed and dropped
      tile.weight[w] = static_cast<const T*>(task.weight) + row * task.k;
    }
    for (int m = 0; m < task.num_rows; m += kTileRows) {
      const int num_rows = task.num_rows - m < kTileRows ? task.num_rows - m : kTileRows;
      tile.x = static_cast<const T*>(task.x) + m * task.x_stride;
      float results[kLanes];
      Store(results,
            m == 0 ? DotTileRows<T, true>(tile, num_rows) : DotTileRows<T, false>(tile, num_rows));
      for (int r = 0; r < num_rows; ++r) {
        float* out = task.out + (m + r) * task.out_stride + n;
        if (num_weights == kTileWeights) {
          __builtin_memcpy(out, results + r * kTileWeights, kTileWeights * sizeof(float));
          continue;
        }
        for (int w = 0; w < num_weights; ++w) out[w] = results[r * kTileWeights + w];
      }
    }
  }
}

}  // namespace

void DotFloat32(const DotTask& task) { Dot<float>(task); }
void DotBFloat16(const DotTask& task) { Dot<uint16_t>(task); }

}  // namespace polystrate::cpu::POLYSTRATE_ISA
