// Storage types in kernels, and how they become float and back.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace polystrate::cuda {

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float ToFloat(__half x) { return __half2float(x); }

template <typename T>
__device__ __forceinline__ T FromFloat(float x);
template <>
__device__ __forceinline__ float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half FromFloat<__half>(float x) {
  return __float2half_rn(x);
}

// Of the lower half of a word.
template <typename T>
__device__ __forceinline__ bool IsFinite(uint32_t bits) {
  constexpr uint32_t kExponent = std::is_same_v<T, __half> ? 0x7c00 : 0x7f80;
  return (bits & kExponent) != kExponent;
}

// Calls f with a null pointer to the storage type: DispatchType(dtype, [&]<typename T>(T*) { ...
// }).
template <typename F>
void DispatchType(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat32:
      return std::forward<F>(f)(static_cast<float*>(nullptr));
    case DType::kBFloat16:
      return std::forward<F>(f)(static_cast<__nv_bfloat16*>(nullptr));
    case DType::kFloat16:
      return std::forward<F>(f)(static_cast<__half*>(nullptr));
    default:
      CheckFailed(__FILE__, __LINE__, "no storage type of weights");
  }
}

}  // namespace polystrate::cuda
