// What all threads of a block find out together: sums, least values, sums up to each thread. Blocks
// are one-dimensional and of whole warps; all their threads must call.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/reduce.cuh"

namespace polystrate::cuda {

struct Plus {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Least {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

// In every lane, the same to the last bit.
template <typename T, typename Combine>
__device__ __forceinline__ T WarpReduce(T value, Combine combine) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

// In every thread. `none` changes nothing when it is combined; `partials` holds kMaxWarps, and may
// be used again at once.
template <typename T, typename Combine>
__device__ T BlockReduce(T value, T none, Combine combine, T* partials) {
  value = WarpReduce(value, combine);
  const int lane = threadIdx.x % kWarp;
  if (lane == 0) partials[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = WarpReduce(lane < blockDim.x / kWarp ? partials[lane] : none, combine);
  __syncthreads();
  return value;
}

// The sum of the values of the threads before this one. `partials` as for BlockReduce.
__device__ inline uint64_t BlockScan(uint64_t value, unsigned long long* partials) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  unsigned long long through = value;  // the sum up to and with this lane
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const unsigned long long before = __shfl_up_sync(kAllLanes, through, offset);
    if (lane >= offset) through += before;
  }
  if (lane == kWarp - 1) partials[warp] = through;
  __syncthreads();
  const unsigned long long before = WarpReduce(lane < warp ? partials[lane] : 0ull, Plus());
  __syncthreads();
  return before + through - value;
}

}  // namespace polystrate::cuda
