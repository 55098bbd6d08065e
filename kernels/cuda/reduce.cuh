// Sums over the threads of a warp and of a row of threads.
#pragma once

#include <cuda_runtime.h>

namespace polystrate::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kMaxWarps = 32;  // of a block
inline constexpr unsigned kAllLanes = 0xffffffffu;

// The sum over the warp, the same bits in every lane.
__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// The sum over the threads of the same threadIdx.y, the same bits in each of them and whatever the
// other rows hold. All threads of the block call it; blockDim.x is a multiple of a warp.
//   partials: [kMaxWarps] in shared memory.
__device__ __forceinline__ float RowSum(float value, float* partials) {
  value = WarpSum(value);
  if (blockDim.x == kWarp) return value;
  const int num_warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  float* row = partials + threadIdx.y * num_warps;
  __syncthreads();  // those of the sum before have been read
  if (lane == 0) row[threadIdx.x / kWarp] = value;
  __syncthreads();
  return WarpSum(lane < num_warps ? row[lane] : 0.0f);
}

}  // namespace polystrate::cuda
