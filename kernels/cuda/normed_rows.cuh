// The norm of a few rows by every thread block that multiplies them, in its shared memory, so that
// a product needs no kernel in front of it. Bit for bit what norm.cu's kernel gives: it is cut up
// in the same way.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda {

inline constexpr int kNormPack = 4;           // 16 bytes of the residual stream
inline constexpr int kMaxNormPacks = 4;       // that a thread keeps in registers
inline constexpr int kMaxNormThreads = 1024;  // hence rows of up to 16,384 elements
inline constexpr int kNormBlockThreads = 256;

// How a row of n elements, whole packs, is shared out: thread i of `width` has packs i, i + width,
// ..., `packs` of them or one less.
struct NormShares {
  int packs;
  int width;  // whole warps
};
// The fewest packs a thread can have, in powers of two; but two rather than half the threads more.
__host__ __device__ inline NormShares NormSharesOf(int n) {
  const int all = n / kNormPack;
  NormShares shares = {1, 0};
  if (all > kNormBlockThreads) shares.packs = all <= 2 * kMaxNormThreads ? 2 : kMaxNormPacks;
  const int threads = (all + shares.packs - 1) / shares.packs;
  shares.width = (threads + kWarp - 1) / kWarp * kWarp;
  return shares;
}

struct NormedRowsTask {
  const float* x;  // [num_rows, n]
  int64_t x_stride;
  const float* weight;  // [n]
  const float* bias;    // [n], of LayerNorm
  float epsilon;
};

inline constexpr int kNormedGap = 8;  // elements: normed rows do not begin in the same bank

// Shared memory that NormedRows takes for elements of two bytes.
inline int64_t NormedBytes(int64_t num_rows, int64_t n, bool centered) {
  return (num_rows + (centered ? 2 : 1)) * n * int64_t{sizeof(float)} +
         num_rows * (n + kNormedGap) * 2;
}

// kCentered: LayerNorm, else RmsNorm. Blocks have 32 kWarps threads in one dimension.
template <typename T, bool kCentered, int kWarps>
class NormedRows {
 public:
  static_assert(sizeof(T) == 2);
  static constexpr int kMaxRows = 8;

  __device__ NormedRows(const NormedRowsTask& task, int num_rows, int n)
      : task_(task),
        num_rows_(num_rows),
        n_(n),
        shares_(NormSharesOf(n)),
        x_(reinterpret_cast<float*>(DynamicShared())),
        weight_(x_ + num_rows * n),
        bias_(weight_ + n),
        normed_(reinterpret_cast<T*>(weight_ + (kCentered ? 2 : 1) * n)) {}

  // Before the kernel in front has ended.
  __device__ __forceinline__ void CopyWeights() const {
    Copy(task_.weight, weight_);
    if constexpr (kCentered) Copy(task_.bias, bias_);
  }

  // Rows of stride() elements, for all threads of the block to read.
  __device__ __forceinline__ const T* Finish() const {
    __shared__ float sums[kMaxRows * kMaxWarps], squares[kMaxRows * kMaxWarps];
    for (int row = 0; row < num_rows_; ++row) {
      Copy(task_.x + row * task_.x_stride, x_ + row * n_);
    }
    CommitCopies();
    WaitCopies<0>();
    __syncthreads();
    if constexpr (kCentered) {
      ForEachShare(
          [&](int row, int first, float* sum) {
            float x[kNormPack];
            for (int column = first; column < n_; column += kNormPack * shares_.width) {
              LoadPack(x_ + row * n_ + column, x);
              *sum += (x[0] + x[1]) + (x[2] + x[3]);
            }
          },
          sums);
      __syncthreads();
    }
    ForEachShare(
        [&](int row, int first, float* sum) {
          const float mean = Mean(sums, row);
          float x[kNormPack];
          for (int column = first; column < n_; column += kNormPack * shares_.width) {
            LoadPack(x_ + row * n_ + column, x);
#pragma unroll
            for (int i = 0; i < kNormPack; ++i) {
              const float difference = x[i] - mean;
              *sum = fmaf(difference, difference, *sum);
            }
          }
        },
        squares);
    __syncthreads();
    for (int row = 0; row < num_rows_; ++row) WriteRow(sums, squares, row);
    __syncthreads();
    return normed_;
  }

  __device__ __forceinline__ int stride() const { return n_ + kNormedGap; }

 private:
  // n elements to shared memory, without waiting.
  __device__ __forceinline__ void Copy(const float* from, float* to) const {
    for (int i = static_cast<int>(threadIdx.x) * kNormPack; i < n_; i += 32 * kWarps * kNormPack) {
      CopyAsync16(to + i, from + i);
    }
  }

  // Calls f(row, first column, sum) in the lanes of every warp that a row has in norm.cu, and
  // leaves the sums of the warps in `partials`.
  template <typename F>
  __device__ __forceinline__ void ForEachShare(F&& f, float* partials) const {
    const int row_warps = shares_.width / kWarp, lane = threadIdx.x % kWarp;
    for (int i = threadIdx.x / kWarp; i < num_rows_ * row_warps; i += kWarps) {
      const int row = i / row_warps, warp = i - row * row_warps;
      float sum = 0.0f;
      f(row, kNormPack * (warp * kWarp + lane), &sum);
      sum = WarpSum(sum);
      if (lane == 0) partials[row * kMaxWarps + warp] = sum;
    }
  }

  __device__ __forceinline__ float RowAverage(const float* partials, int row) const {
    const int lane = threadIdx.x % kWarp;
    const float part = lane < shares_.width / kWarp ? partials[row * kMaxWarps + lane] : 0.0f;
    return WarpSum(part) / static_cast<float>(n_);
  }
  __device__ __forceinline__ float Mean(const float* sums, int row) const {
    return kCentered ? RowAverage(sums, row) : 0.0f;
  }

  __device__ __forceinline__ void WriteRow(const float* sums, const float* squares, int row) const {
    const float mean = Mean(sums, row);
    const float scale = 1.0f / sqrtf(RowAverage(squares, row) + task_.epsilon);
    float x[kNormPack], weight[kNormPack], bias[kNormPack];
    for (int column = static_cast<int>(threadIdx.x) * kNormPack; column < n_;
         column += 32 * kWarps * kNormPack) {
      LoadPack(x_ + row * n_ + column, x);
      LoadPack(weight_ + column, weight);
      if constexpr (kCentered) LoadPack(bias_ + column, bias);
      T normed[kNormPack];
#pragma unroll
      for (int i = 0; i < kNormPack; ++i) {
        const float y = (x[i] - mean) * scale;
        normed[i] = FromFloat<T>(kCentered ? fmaf(y, weight[i], bias[i]) : y * weight[i]);
      }
      memcpy(normed_ + row * stride() + column, normed, sizeof(normed));
    }
  }

  const NormedRowsTask& task_;
  const int num_rows_;
  const int n_;
  const NormShares shares_;
  float* const x_;       // [num_rows, n]
  float* const weight_;  // [n]
  float* const bias_;    // [n] of LayerNorm
  T* const normed_;      // [num_rows, stride()]
};

}  // namespace polystrate::cuda
