// Place: where a token stands among all of its row, as one number that is the smaller the earlier:
// by descending logit and, among equals, ascending id. The smallest place is the token of argmax.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace polystrate::cuda {

using Place = unsigned long long;
inline constexpr Place kNoPlace = ~0ull;  // behind all tokens

// The smaller the larger the logit. 0 and -0 are equal; NaN comes first of all, so that the best
// token of a row shows whether it holds one.
__device__ __forceinline__ uint32_t LogitOrder(float logit) {
  if (logit != logit) return 0;
  const uint32_t bits = __float_as_uint(logit == 0.0f ? 0.0f : logit);
  return (bits >> 31) != 0 ? bits : ~bits & 0x7fffffffu;
}

__device__ __forceinline__ float LogitOfOrder(uint32_t order) {
  return __uint_as_float((order >> 31) != 0 ? order : ~order & 0x7fffffffu);
}

__device__ __forceinline__ Place PlaceOf(float logit, int32_t id) {
  return Place{LogitOrder(logit)} << 32 | static_cast<uint32_t>(id);
}
__device__ __forceinline__ float LogitOf(Place place) {
  return LogitOfOrder(static_cast<uint32_t>(place >> 32));
}
__device__ __forceinline__ int32_t IdOf(Place place) { return static_cast<int32_t>(place); }

}  // namespace polystrate::cuda
