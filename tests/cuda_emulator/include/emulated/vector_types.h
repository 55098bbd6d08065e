// CUDA's small vectors, with their alignment, and dim3.
#pragma once

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type, Name a name.
#define EMULATED_VECTORS(T, Name, Align2, Align4)                       \
  struct Name##1 {                                                      \
    T x;                                                                \
  };                                                                    \
  struct alignas(Align2) Name##2 {                                      \
    T x, y;                                                             \
  };                                                                    \
  struct Name##3 {                                                      \
    T x, y, z;                                                          \
  };                                                                    \
  struct alignas(Align4) Name##4 {                                      \
    T x, y, z, w;                                                       \
  };                                                                    \
  constexpr Name##1 make_##Name##1(T x) { return {x}; }                 \
  constexpr Name##2 make_##Name##2(T x, T y) { return {x, y}; }         \
  constexpr Name##3 make_##Name##3(T x, T y, T z) { return {x, y, z}; } \
  constexpr Name##4 make_##Name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATED_VECTORS(signed char, char, 2, 4)
EMULATED_VECTORS(unsigned char, uchar, 2, 4)
EMULATED_VECTORS(short, short, 4, 8)
EMULATED_VECTORS(unsigned short, ushort, 4, 8)
EMULATED_VECTORS(int, int, 8, 16)
EMULATED_VECTORS(unsigned, uint, 8, 16)
EMULATED_VECTORS(float, float, 8, 16)
EMULATED_VECTORS(long long, longlong, 16, 16)
EMULATED_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATED_VECTORS(double, double, 16, 16)
#undef EMULATED_VECTORS
// NOLINTEND(bugprone-macro-parentheses)
