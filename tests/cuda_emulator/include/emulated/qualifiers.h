// CUDA's words, for g++. In a kernel, `alignas` stands before `__shared__`.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_assume(condition) ((void)0)
// One for each of the operating system's threads, each of which runs blocks one after the other.
#define __shared__ static thread_local
