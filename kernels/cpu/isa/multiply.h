// Product of small float32 matrices that lie in the caches, as attention needs it.
#pragma once

#include "kernels/cpu/isa/simd.h"

namespace polystrate::cpu::POLYSTRATE_ISA {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVectors = kVectorRegisters / 8;  // 6 x 4 or 6 x 2 sums in registers

// c[kRows, kVectors * kLanes] = (accumulate ? c : 0) + a[kRows, k] b[k, ...]
template <int kRows, int kVectors>
POLYSTRATE_INLINE void MultiplyTile(const float* a, int64_t a_stride, const float* b,
                                    int64_t b_stride, int k, float* c, int64_t c_stride,
                                    bool accumulate) {
  Vec acc[kRows][kVectors];
  POLYSTRATE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    POLYSTRATE_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      acc[r][v] = accumulate ? Load(c + r * c_stride + v * kLanes) : Zero();
    }
  }
  for (int i = 0; i < k; ++i) {
    Vec column[kVectors];
    POLYSTRATE_UNROLL
    for (int v = 0; v < kVectors; ++v) column[v] = Load(b + i * b_stride + v * kLanes);
    POLYSTRATE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec x = Set(a[r * a_stride + i]);
      POLYSTRATE_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Fma(x, column[v], acc[r][v]);
    }
  }
  POLYSTRATE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    POLYSTRATE_UNROLL
    for (int v = 0; v < kVectors; ++v) Store(c + r * c_stride + v * kLanes, acc[r][v]);
  }
}

struct Matrices {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int rows;
  int k;
  bool accumulate;
};

template <int kVectors>
void MultiplyColumns(const Matrices& m, int64_t column) {
  int r = 0;
  const float* b = m.b + column;
  float* c = m.c + column;
  for (; r + kTileRows <= m.rows; r += kTileRows) {
    MultiplyTile<kTileRows, kVectors>(m.a + r * m.a_stride, m.a_stride, b, m.b_stride, m.k,
                                      c + r * m.c_stride, m.c_stride, m.accumulate);
  }
  const float* a = m.a + r * m.a_stride;
  c += r * m.c_stride;
  switch (m.rows - r) {
    case 1:
      return MultiplyTile<1, kVectors>(a, m.a_stride, b, m.b_stride, m.k, c, m.c_stride,
                                       m.accumulate);
    case 2:
      return MultiplyTile<2, kVectors>(a, m.a_stride, b, m.b_stride, m.k, c, m.c_stride,
                                       m.accumulate);
    case 3:
      return MultiplyTile<3, kVectors>(a, m.a_stride, b, m.b_stride, m.k, c, m.c_stride,
                                       m.accumulate);
    case 4:
      return MultiplyTile<4, kVectors>(a, m.a_stride, b, m.b_stride, m.k, c, m.c_stride,
                                       m.accumulate);
    case 5:
      return MultiplyTile<5, kVectors>(a, m.a_stride, b, m.b_stride, m.k, c, m.c_stride,
                                       m.accumulate);
  }
}

// Columns [0, n) in steps of whole vectors; n is a multiple of kLanes.
void Multiply(const Matrices& m, int64_t n) {
  int64_t column = 0;
  for (; column + kTileVectors * kLanes <= n; column += kTileVectors * kLanes) {
    MultiplyColumns<kTileVectors>(m, column);
  }
  for (; column < n; column += kLanes) MultiplyColumns<1>(m, column);
}

}  // namespace
}  // namespace polystrate::cpu::POLYSTRATE_ISA
