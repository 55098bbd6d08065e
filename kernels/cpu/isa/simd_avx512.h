// Vec: 16 floats. uint16_t pointers are bfloat16 bits. Included through simd.h only.
#pragma once

#include <immintrin.h>

#include <cstdint>

// Arrays of vectors stay in registers only when every loop over them is unrolled and every function
// they pass through inlined. (A prefetch in a function that is not counts as no effect and
// vanishes.)
#define POLYSTRATE_UNROLL _Pragma("GCC unroll 16")
#define POLYSTRATE_INLINE inline __attribute__((always_inline))

namespace polystrate::cpu::POLYSTRATE_ISA {
namespace {

constexpr int kLanes = 16;
constexpr int kVectorRegisters = 32;
using Vec = __m512;
using Mask = __mmask16;

inline Mask FirstLanes(int count) { return static_cast<Mask>((1u << count) - 1u); }

inline Vec Zero() { return _mm512_setzero_ps(); }
inline Vec Set(float x) { return _mm512_set1_ps(x); }
inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }  // a b + c
inline Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }              // b where either is NaN
inline Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }              // b where either is NaN
inline Vec Abs(Vec a) { return _mm512_abs_ps(a); }
inline Vec Round(Vec a) { return _mm512_roundscale_ps(a, 0x08); }
inline Vec CopySign(Vec magnitude, Vec sign) {
  return _mm512_or_ps(Abs(magnitude), _mm512_and_ps(sign, Set(-0.0f)));
}
inline Mask Less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask IsNan(Vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
inline Mask Or(Mask a, Mask b) { return a | b; }
inline bool Any(Mask mask) { return mask != 0; }
inline Vec Select(Mask mask, Vec a, Vec b) { return _mm512_mask_blend_ps(mask, b, a); }
inline Vec ScaleByPowerOfTwo(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }
inline float ReduceAdd(Vec a) { return _mm512_reduce_add_ps(a); }
inline float ReduceMax(Vec a) { return _mm512_reduce_max_ps(a); }

inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec LoadPartial(const float* p, int n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
inline void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline void StorePartial(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }

inline Vec Widen(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Vec Load(const uint16_t* p) {
  return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec LoadPartial(const uint16_t* p, int n) {
  return Widen(_mm256_maskz_loadu_epi16(FirstLanes(n), p));
}
inline __m256i Narrow(Vec v) { return (__m256i)_mm512_cvtneps_pbh(v); }
inline void Store(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), Narrow(v));
}
inline void StorePartial(uint16_t* p, Vec v, int n) {
  _mm256_mask_storeu_epi16(p, FirstLanes(n), Narrow(v));
}

// As many elements as a register holds, for dot products: 16 floats or 32 bfloat16.
template <typename T>
constexpr int kPacked = 64 / sizeof(T);
using PackedBf16 = __m512bh;
inline Vec LoadPacked(const float* p) { return Load(p); }
inline Vec LoadPackedPartial(const float* p, int n) { return LoadPartial(p, n); }
inline PackedBf16 LoadPacked(const uint16_t* p) { return (PackedBf16)_mm512_loadu_si512(p); }
inline PackedBf16 LoadPackedPartial(const uint16_t* p, int n) {
  return (PackedBf16)_mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << n) - 1), p);
}
inline Vec DotAdd(Vec acc, Vec a, Vec b) { return Fma(a, b, acc); }
inline Vec DotAdd(Vec acc, PackedBf16 a, PackedBf16 b) { return _mm512_dpbf16_ps(acc, a, b); }

POLYSTRATE_INLINE void Prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}

// Transposes 16 x 16: pairs, quadruples, then 128-bit lanes twice.
POLYSTRATE_INLINE void Transpose(Vec (&v)[kLanes]) {
  Vec t[kLanes];
  POLYSTRATE_UNROLL
  for (int i = 0; i < kLanes; i += 4) {
    const Vec a = _mm512_unpacklo_ps(v[i], v[i + 1]);
    const Vec b = _mm512_unpackhi_ps(v[i], v[i + 1]);
    const Vec c = _mm512_unpacklo_ps(v[i + 2], v[i + 3]);
    const Vec d = _mm512_unpackhi_ps(v[i + 2], v[i + 3]);
    t[i] = _mm512_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
  POLYSTRATE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const Vec a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
    const Vec b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
    const Vec c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
    const Vec d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
    v[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    v[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
    v[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
    v[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

// Lane i becomes the sum over lanes of v[i], always in the same order: a transposition that adds as
// it goes. Destroys v.
POLYSTRATE_INLINE Vec TransposeSum(Vec (&v)[kLanes]) {
  POLYSTRATE_UNROLL
  for (int i = 0; i < kLanes; i += 2) {
    v[i] = Add(_mm512_unpacklo_ps(v[i], v[i + 1]), _mm512_unpackhi_ps(v[i], v[i + 1]));
  }
  POLYSTRATE_UNROLL
  for (int i = 0; i < kLanes; i += 4) {
    const __m512d a = _mm512_castps_pd(v[i]), b = _mm512_castps_pd(v[i + 2]);
    v[i] =
        Add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const Vec ab =
      Add(_mm512_shuffle_f32x4(v[0], v[4], 0x88), _mm512_shuffle_f32x4(v[0], v[4], 0xdd));
  const Vec cd =
      Add(_mm512_shuffle_f32x4(v[8], v[12], 0x88), _mm512_shuffle_f32x4(v[8], v[12], 0xdd));
  return Add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

}  // namespace
}  // namespace polystrate::cpu::POLYSTRATE_ISA
