// Stand-in for CUDA's header: binary16, rounded to nearest even.
#pragma once

#include "emulated/small_float.h"
#include "kernels/core/float16.h"

using __half = polystrate::emulator::SmallFloat<polystrate::Float16>;
using __half2 = polystrate::emulator::SmallFloat2<__half>;
using half = __half;
using half2 = __half2;

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float __half2float(__half x) { return static_cast<float>(x); }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
inline __half2 __float2half2_rn(float x) { return __floats2half2_rn(x, x); }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline float2 __half22float2(__half2 v) { return polystrate::emulator::ToFloats(v); }
inline float __low2float(__half2 v) { return static_cast<float>(v.x); }
inline float __high2float(__half2 v) { return static_cast<float>(v.y); }
inline unsigned short __half_as_ushort(__half x) { return x.bits(); }
inline __half __ushort_as_half(unsigned short x) { return __half::FromBits(x); }
