// The vector type of the instruction set a file is compiled for, and the mathematics built on it.
#pragma once

#ifdef __AVX512F__
#include "kernels/cpu/isa/simd_avx512.h"
#else
#include "kernels/cpu/isa/simd_avx2.h"
#endif

namespace polystrate::cpu::POLYSTRATE_ISA {
namespace {

// exp(x) to 2 ulp; 0 below -87.3, infinity above 88.4; NaN stays NaN. Cephes' expf.
inline Vec Exp(Vec x) {
  const Vec kLowest = Set(-87.33654f);
  const auto underflow = Less(x, kLowest);
  x = Min(Set(88.5f), Max(kLowest, x));
  const Vec n = Round(Mul(x, Set(1.44269504088896341f)));
  const Vec r = Fma(n, Set(2.12194440e-4f), Fma(n, Set(-0.693359375f), x));
  Vec p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Fma(p, Mul(r, r), Add(r, Set(1.0f)));
  return Select(underflow, Zero(), ScaleByPowerOfTwo(p, n));
}

// erf(x) to 2 ulp: odd polynomial near zero, 1 - exp(polynomial) beyond.
inline Vec Erf(Vec x) {
  const Vec t = Abs(x);
  const Vec s = Mul(x, x);
  Vec far = Fma(Set(-1.72853470e-5f), t, Set(3.83197126e-4f));
  far = Fma(far, s, Fma(Set(-3.88396438e-3f), t, Set(2.42546219e-2f)));
  far = Fma(far, t, Set(-1.06777877e-1f));
  far = Fma(far, t, Set(-6.34846687e-1f));
  far = Fma(far, t, Set(-1.28717512e-1f));
  far = Fma(far, t, Sub(Zero(), t));
  far = CopySign(Sub(Set(1.0f), Exp(far)), x);
  Vec near = Set(-5.96761703e-4f);
  near = Fma(near, s, Set(4.99119423e-3f));
  near = Fma(near, s, Set(-2.67681349e-2f));
  near = Fma(near, s, Set(1.12819925e-1f));
  near = Fma(near, s, Set(-3.76125336e-1f));
  near = Fma(near, s, Set(1.28379166e-1f));
  near = Fma(near, x, x);
  return Select(Less(Set(0.927734375f), t), far, near);
}

// Loop over n elements, whole vectors first: body(i, count) with count == kLanes or the rest.
template <typename Body>
inline void ForEachVector(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, static_cast<int>(n - i));
}

template <typename T>
inline Vec LoadUpTo(const T* p, int count) {
  return count == kLanes ? Load(p) : LoadPartial(p, count);
}
template <typename T>
inline void StoreUpTo(T* p, Vec v, int count) {
  if (count == kLanes) {
    Store(p, v);
  } else {
    StorePartial(p, v, count);
  }
}

}  // namespace
}  // namespace polystrate::cpu::POLYSTRATE_ISA
