// Vec: 8 floats. uint16_t pointers are bfloat16 bits. Included through simd.h only.
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

constexpr int kLanes = 8;
constexpr int kVectorRegisters = 16;
using Vec = __m256;
using Mask = __m256;  // all bits of a lane set or none

inline __m256i FirstLanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Vec Zero() { return _mm256_setzero_ps(); }
inline Vec Set(float x) { return _mm256_set1_ps(x); }
inline Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }  // a b + c
inline Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }              // b where either is NaN
inline Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }              // b where either is NaN
inline Vec Abs(Vec a) { return _mm256_andnot_ps(Set(-0.0f), a); }
inline Vec Round(Vec a) { return _mm256_round_ps(a, 0x08); }
inline Vec CopySign(Vec magnitude, Vec sign) {
  return _mm256_or_ps(Abs(magnitude), _mm256_and_ps(sign, Set(-0.0f)));
}
inline Mask Less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Mask IsNan(Vec a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
inline Mask Or(Mask a, Mask b) { return _mm256_or_ps(a, b); }
inline bool Any(Mask mask) { return _mm256_movemask_ps(mask) != 0; }
inline Vec Select(Mask mask, Vec a, Vec b) { return _mm256_blendv_ps(b, a, mask); }
// n is whole and in [-126, 128].
inline Vec ScaleByPowerOfTwo(Vec a, Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return Mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline float ReduceAdd(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float ReduceMax(Vec a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec LoadPartial(const float* p, int n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
inline void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline void StorePartial(float* p, Vec v, int n) { _mm256_maskstore_ps(p, FirstLanes(n), v); }

// AVX2 has no masked 16-bit loads: a short tail goes through the stack.
template <int kCount>
inline void CopyTail(const uint16_t* from, int n, uint16_t (&to)[kCount]) {
  for (int i = 0; i < kCount; ++i) to[i] = i < n ? from[i] : uint16_t{0};
}

inline Vec Load(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Vec LoadPartial(const uint16_t* p, int n) {
  uint16_t tail[kLanes];
  CopyTail(p, n, tail);
  return Load(tail);
}
// Rounds to nearest even; NaN stays NaN.
inline __m128i Narrow(Vec v) {
  const __m256i u = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(IsNan(v)));
  rounded = _mm256_srli_epi32(rounded, 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}
inline void Store(uint16_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), Narrow(v));
}
inline void StorePartial(uint16_t* p, Vec v, int n) {
  uint16_t tail[kLanes];
  Store(tail, v);
  for (int i = 0; i < n; ++i) p[i] = tail[i];
}

// As many elements as a register holds, for dot products: 8 floats or 16 bfloat16.
template <typename T>
constexpr int kPacked = 32 / sizeof(T);
using PackedBf16 = __m256i;
inline Vec LoadPacked(const float* p) { return Load(p); }
inline Vec LoadPackedPartial(const float* p, int n) { return LoadPartial(p, n); }
inline PackedBf16 LoadPacked(const uint16_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline PackedBf16 LoadPackedPartial(const uint16_t* p, int n) {
  uint16_t tail[2 * kLanes];
  CopyTail(p, n, tail);
  return LoadPacked(tail);
}
inline Vec DotAdd(Vec acc, Vec a, Vec b) { return Fma(a, b, acc); }
// Even and odd elements are the halves of 32-bit words: no shuffle is needed to widen them.
inline Vec DotAdd(Vec acc, PackedBf16 a, PackedBf16 b) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  acc = Fma(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)), acc);
  return Fma(_mm256_castsi256_ps(_mm256_and_si256(a, high)),
             _mm256_castsi256_ps(_mm256_and_si256(b, high)), acc);
}

POLYSTRATE_INLINE void Prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}

// Transposes 8 x 8: pairs, quadruples, then 128-bit lanes.
POLYSTRATE_INLINE void Transpose(Vec (&v)[kLanes]) {
  Vec t[kLanes];
  POLYSTRATE_UNROLL
  for (int i = 0; i < kLanes; i += 4) {
    const Vec a = _mm256_unpacklo_ps(v[i], v[i + 1]);
    const Vec b = _mm256_unpackhi_ps(v[i], v[i + 1]);
    const Vec c = _mm256_unpacklo_ps(v[i + 2], v[i + 3]);
    const Vec d = _mm256_unpackhi_ps(v[i + 2], v[i + 3]);
    t[i] = _mm256_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
  POLYSTRATE_UNROLL
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
  }
}

// Lane i becomes the sum over lanes of v[i], always in the same order: a transposition that adds as
// it goes. Destroys v.
POLYSTRATE_INLINE Vec TransposeSum(Vec (&v)[kLanes]) {
  POLYSTRATE_UNROLL
  for (int i = 0; i < kLanes; i += 2) {
    v[i] = Add(_mm256_unpacklo_ps(v[i], v[i + 1]), _mm256_unpackhi_ps(v[i], v[i + 1]));
  }
  POLYSTRATE_UNROLL
  for (int i = 0; i < kLanes; i += 4) {
    const __m256d a = _mm256_castps_pd(v[i]), b = _mm256_castps_pd(v[i + 2]);
    v[i] =
        Add(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
  }
  return Add(_mm256_permute2f128_ps(v[0], v[4], 0x20), _mm256_permute2f128_ps(v[0], v[4], 0x31));
}

}  // namespace
}  // namespace polystrate::cpu::POLYSTRATE_ISA
